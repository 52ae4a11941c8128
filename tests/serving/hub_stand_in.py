"""A Hugging Face hub on loopback: what ``create_repo``, ``upload_folder`` and ``snapshot_download`` ask of it.

Written from the client's requests. Files are kept in memory, a commit's name is a digest of its files, and only one
token is let in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "s" * 34


class Hub:
    """Repositories: name -> commit -> path -> bytes; ``requests`` are (method, path)."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str]] = []
        self.address = ""

    def commit(self, name: str, changed: dict[str, bytes]) -> str:
        """Add files to the last commit; returns the new commit's name."""
        files = {**self.commits[name].get(self.heads.get(name, ""), {}), **changed}
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name][digest] = files
        self.heads[name] = digest
        return digest


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers at ``hub.address``."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def say(self, status: int, value: Any, **headers: str) -> None:
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

        def handle_request(self) -> None:
            path = self.path.split("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append((self.command, path))
            if path == "/stop":  # so that nothing answers any more
                threading.Thread(target=stop).start()
                return self.say(200, {})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.say(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/validate-yaml":  # of a model card's head
                return self.say(200, {"errors": [], "warnings": []})
            for pattern, act in (
                (r"/api/models/([^/]+/[^/]+)/preupload/main", self.preupload),
                (r"/api/models/([^/]+/[^/]+)/commit/main", self.commit),
                (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
                (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
                (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.file),
            ):
                if found := re.fullmatch(pattern, path):
                    if found[1] not in hub.commits:
                        return self.say(404, {"error": "no"}, X_Error_Code="RepoNotFound")
                    return act(body, *found.groups())
            return self.say(404, {"error": path})

        do_GET = do_POST = do_HEAD = handle_request

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            hub.commits.setdefault(name, {})
            hub.private[name] = asked.get("private", asked.get("visibility") == "private")
            self.say(200, {"url": f"{hub.address}/{name}", "id": name})

        def preupload(self, body: bytes, name: str) -> None:
            asked = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.say(200, {"files": [{"path": file["path"], **plain} for file in asked]})

        def commit(self, body: bytes, name: str) -> None:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
                     for line in lines if line["key"] == "file"}  # fmt: skip
            digest = hub.commit(name, files)
            self.say(200, {"success": True, "commitOid": digest, "commitUrl": f"{hub.address}/{name}/commit/{digest}"})

        def info(self, _: bytes, name: str, revision: str | None = None) -> None:
            digest = hub.heads.get(name, "") if revision in (None, "main") else revision
            if digest not in hub.commits[name]:
                return self.say(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": path} for path in hub.commits[name][digest]]
            return self.say(200, {"id": name, "sha": digest, "private": True, "siblings": siblings, "tags": []})

        def tree(self, _: bytes, name: str, digest: str) -> None:
            files = [(path, len(content), hashlib.sha1(content).hexdigest())
                     for path, content in hub.commits[name][digest].items()]  # fmt: skip
            self.say(200, [dict(zip(("type", "path", "size", "oid"), ("file", *file))) for file in files])

        def file(self, _: bytes, name: str, digest: str, path: str) -> None:
            content = hub.commits[name][digest][path]
            etag = hashlib.sha1(content).hexdigest()
            self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=digest)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)

    def stop() -> None:
        server.shutdown()
        server.server_close()

    thread.start()
    try:
        yield hub
    finally:
        stop()
        thread.join()

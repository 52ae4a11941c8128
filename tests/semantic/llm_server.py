"""An OpenAI-compatible chat endpoint on the loopback interface, scripted by the test that starts it."""

from __future__ import annotations

import argparse
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GOOD = '{"1": "Nail art", "2": "Hair care"}'


@dataclass
class Answer:
    """What the server sends: a chat completion around ``content``, or, with another status, an error."""

    content: str | None = GOOD
    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    error: dict | None = None
    raw: str | bytes | None = None
    usage: object = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})

    def body(self, model: str) -> bytes:
        if self.raw is not None:
            return self.raw if isinstance(self.raw, bytes) else self.raw.encode()
        if self.status != 200:
            return json.dumps({"error": self.error or {"message": f"scripted {self.status}", "code": None}}).encode()
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        return json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": model,
                "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
                "usage": self.usage,
            }
        ).encode()


@dataclass
class Asked:
    """One request as the server saw it; ``prompt`` is the first user message."""

    body: dict
    authorization: str
    path: str

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]


class LLMServer:
    """Serve while in a ``with`` block; ``answer(asked, n)`` decides, n = how often that prompt was asked before.

    With a ``certificate`` for localhost, and its key, it is asked by https.
    """

    def __init__(
        self,
        answer: Callable[[Asked, int], Answer] | None = None,
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ):
        self.answer = answer or (lambda asked, n: Answer())
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._times: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", port), handler)
        self._at = "http://127.0.0.1"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self._at = "https://localhost"

    @property
    def url(self) -> str:
        return f"{self._at}:{self._http.server_port}/v1"

    def prompts(self) -> list[str]:
        with self._lock:
            return [asked.prompt for asked in self.asked]

    def __enter__(self) -> LLMServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def respond(self, asked: Asked) -> Answer:
        with self._lock:
            n = self._times.get(asked.prompt, 0)
            self._times[asked.prompt] = n + 1
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self.answer(asked, n)
            time.sleep(answer.delay)
            return answer
        finally:
            with self._lock:
                self._at_once -= 1


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that was killed or timed out is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: LLMServer
    protocol_version = "HTTP/1.1"
    # one packet per response: Nagle's algorithm would hold the second one back for 40 ms
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.owner.respond(Asked(body, self.headers.get("Authorization", ""), self.path))
        payload = answer.body(body["model"])
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/html" if payload.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Serve good replies after ``--latency`` seconds until killed; print the URL first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    latency = parser.parse_args().latency
    with LLMServer(lambda asked, n: Answer(delay=latency)) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

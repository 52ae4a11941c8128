"""The service under load: seconds of a request, requests a second, refusals, and wrong answers (there must be none).

``python benchmarks/serving_http.py MODEL [--clients 64] [--seconds 60] [--workers 2] [--capacity 32]``: serves a model
folder on the loopback and asks it from that many clients, each on its connection, one request after the other; who is
refused asks again when Retry-After says so. Every answer is compared with Recommender's. In the middle a worker is
killed and the model is taken over anew. Clients and service share the machine's processors, so read the figures beside
``load_before`` (of the machine, a minute's mean). Prints JSON and writes it to
``benchmarks/results/serving_http.json``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from recbole_eimf.serving.http.settings import TOKEN_VARIABLE
from recbole_eimf.serving.recommender import Recommender

RESULT = Path(__file__).parent / "results" / "serving_http.json"
HISTORIES, LENGTH, K = 200, 20, 10
JSON = {"Content-Type": "application/json"}


def questions(folder: str) -> list[tuple[bytes, list[tuple[str, float]]]]:
    """(body, right answer) of random histories."""
    model = Recommender.load(folder)
    tokens = np.array(model.catalogue.tokens[1:].to_pylist(), dtype=object)
    rng = np.random.default_rng(0)
    made = []
    for _ in range(HISTORIES):
        history = rng.choice(tokens, rng.integers(1, LENGTH + 1)).tolist()
        frame = model.recommend([history], K)
        made.append((json.dumps({"history": history, "k": K}).encode(), list(zip(frame["item"], frame["score"]))))
    return made


class Client(threading.Thread):
    """Asks until it is told to stop; remembers (seconds, status, right or not) of each request."""

    def __init__(self, port: int, asked: list, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.asked, self.number, self.stop = port, asked, number, stop
        self.seen: list[tuple[float, int, bool]] = []
        self.broken = 0

    def run(self) -> None:
        rng = np.random.default_rng(self.number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            body, right = self.asked[rng.integers(len(self.asked))]
            begin = time.perf_counter()
            try:
                connection.request("POST", "/recommend", body, JSON)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self.broken += 1  # its worker was killed
                connection.close()
                self.stop.wait(0.1)
                continue
            took = time.perf_counter() - begin
            same = True
            if answer.status == 200:
                items = json.loads(content)["results"][0]["items"]
                same = [(item["item"], np.float32(item["score"])) for item in items] == right
            self.seen.append((took, answer.status, same))
            if answer.status == 503:
                self.stop.wait(float(answer.headers["Retry-After"]))
        connection.close()


def measured(given: argparse.Namespace) -> dict:
    """Serve, ask, disturb; the figures."""
    asked = questions(given.model)
    load = os.getloadavg()[0]
    token = secrets.token_urlsafe()
    command = [sys.executable, "-m", "recbole_eimf", "serve", given.model, "--port", "0",
               "--workers", str(given.workers), "--capacity", str(given.capacity)]  # fmt: skip
    environment = {**os.environ, TOKEN_VARIABLE: token, "OMP_NUM_THREADS": "1"}
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        port = int(re.search(r":(\d+) ", service.stdout.readline())[1])
        board = next(Path(given.model).absolute().parent.glob(f".{Path(given.model).name}.*.served"))
        until = time.monotonic() + 120
        while len(list((board / "workers").iterdir())) < given.workers and time.monotonic() < until:
            time.sleep(0.1)
        stop = threading.Event()
        clients = [Client(port, asked, number, stop) for number in range(given.clients)]
        for client in clients:
            client.start()
        begin = time.perf_counter()
        time.sleep(given.seconds / 3)
        if given.workers > 1:
            os.kill(min(int(file.name) for file in (board / "workers").iterdir()), signal.SIGKILL)
        time.sleep(given.seconds / 3)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/reload", b"{}", {**JSON, "Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            reload = json.load(answer)
        time.sleep(max(0.0, begin + given.seconds - time.perf_counter()))
        stop.set()
        for client in clients:
            client.join(60)
        return figures(given, clients, time.perf_counter() - begin, load, reload)
    finally:
        service.terminate()
        service.wait(60)


def figures(given, clients, seconds: float, load: float, reload: dict) -> dict:
    """What is written down."""
    seen = [one for client in clients for one in client.seen]
    answered = np.array([took for took, status, _ in seen if status == 200])
    refused = np.array([took for took, status, _ in seen if status == 503])

    def quantiles(times) -> dict | None:
        if not len(times):
            return None
        return {f"p{q}": round(float(np.percentile(times, q)) * 1000, 1) for q in (50, 90, 99)}

    return {
        "clients": given.clients,
        "seconds": round(seconds, 1),
        "workers": given.workers,
        "capacity": given.capacity,
        "items": len(Recommender.load(given.model)),
        "processors": os.cpu_count(),
        "load_before": round(load, 1),
        "requests": len(seen),
        "answers_a_second": round(len(answered) / seconds, 1),
        "answered_ms": quantiles(answered),
        "refused_503": len(refused),
        "refused_ms": quantiles(refused),
        "other_statuses": sum(status not in (200, 503) for _, status, _ in seen),
        "wrong_answers": sum(not same for *_, same in seen),
        "cut_off_by_the_kill": sum(client.broken for client in clients),
        "reload": {name: reload[name] for name in ("generation", "workers", "behind")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, default in (("clients", 64), ("seconds", 60), ("workers", 2), ("capacity", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if not (1 <= given.clients <= 256 and 1 <= given.seconds <= 600):
        parser.error("1 to 256 clients, 1 to 600 seconds")
    found = measured(given)
    print(json.dumps(found, indent=2))
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

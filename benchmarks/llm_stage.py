"""How close the LLM stage comes to what latency and concurrency allow. Prints JSON, asserts nothing.

The endpoint is the tests' loopback server in a process of its own, answering after a fixed latency; a share of the
prompts is turned away once with status 429. Ideal is calls / concurrency * latency, calls counting those turned away:
no network, no parsing, no disk, no back-off. The stage's first call goes alone (it finds out what the endpoint
accepts), which costs one latency per run and is part of the measured time, as is the back-off of the last 429.
``twice`` and ``unanswered`` count prompts the server answered more than once, and those without a reply.

    python benchmarks/llm_stage.py --requests 5120 --concurrency 64 --latency 0.2 --rejected 0.01
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

from recbole_eimf.semantic.llm.client import OpenAISettings, fetch_openai
from recbole_eimf.semantic.llm.prompt import PromptRequest

SERVER = Path(__file__).resolve().parents[1] / "tests" / "semantic"
RESULT = Path(__file__).resolve().parent / "results" / "llm_stage.json"


def serve(latency: float, rejected: float) -> None:
    """Answer until standard input ends; then print what was answered."""
    sys.path.insert(0, str(SERVER))
    from llm_server import Answer, LLMServer

    good: Counter[str] = Counter()
    turned_away = 0

    def answer(asked, n: int) -> Answer:
        nonlocal turned_away
        if n == 0 and zlib.crc32(asked.prompt.encode()) % 10000 < 10000 * rejected:
            turned_away += 1
            return Answer(status=429, delay=latency)
        good[asked.prompt] += 1
        return Answer(delay=latency)

    with LLMServer(answer) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    print(json.dumps({"turned_away": turned_away, "twice": sum(count > 1 for count in good.values())}))


def measure(args: argparse.Namespace) -> dict:
    os.environ["LLM_STAGE_KEY"] = "benchmark"
    requests = [
        PromptRequest(f"u{n}", f"prompt {n} " + "[a title of a usual length (B00)]" * 20) for n in range(args.requests)
    ]
    command = [sys.executable, __file__, "--serve", "--latency", str(args.latency), "--rejected", str(args.rejected)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        settings = OpenAISettings("m", server.stdout.readline().strip(), "LLM_STAGE_KEY", concurrency=args.concurrency)
        journal = Path(folder) / "journal.jsonl"
        fetch_openai([PromptRequest("warm-up", "imports")], settings, Path(folder) / "warm-up.jsonl", progress=False)
        start, cpu = time.perf_counter(), time.process_time()
        replies = fetch_openai(requests, settings, journal, progress=False)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        fetch_openai(requests, settings, journal, progress=False)
        resume = time.perf_counter() - start
        server.stdin.close()
        served = json.loads(server.stdout.read())
    calls = args.requests + served["turned_away"]
    ideal = calls / args.concurrency * args.latency
    return {
        "requests": args.requests,
        "unanswered": args.requests - sum(reply.status == "ok" for reply in replies.values()),
        **served,
        "concurrency": args.concurrency,
        "latency_s": args.latency,
        "seconds": round(seconds, 3),
        "ideal_seconds": round(ideal, 3),
        "share_of_ideal_throughput": round(ideal / seconds, 3),
        "requests_per_second": round(args.requests / seconds, 1),
        "client_cpu_ms_per_request": round(1000 * cpu / args.requests, 2),
        "seconds_when_all_is_journalled": round(resume, 3),
        "load_average": round(os.getloadavg()[0], 1),
        "processors": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5120)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--rejected", type=float, default=0.01, help="share of prompts turned away once with a 429")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.latency, args.rejected)
        return
    runs = [measure(args) for _ in range(args.repeats)]
    RESULT.write_text(json.dumps(runs, indent=1) + "\n")
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()

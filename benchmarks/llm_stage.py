"""How close the LLM stage comes to what latency and concurrency allow. Prints JSON, asserts nothing.

The endpoint is the tests' loopback server in a process of its own, answering after a fixed latency. Ideal is
requests / concurrency * latency: no network, no parsing, no disk. The stage's first call goes alone (it finds out
what the endpoint accepts), which costs one latency per run and is part of the measured time.

    python benchmarks/llm_stage.py --requests 2560 --concurrency 64 --latency 0.2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recbole_eimf.semantic.llm import OpenAISettings, fetch_openai
from recbole_eimf.semantic.prompt import PromptRequest

SERVER = Path(__file__).parents[1] / "tests" / "semantic" / "llm_server.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2560)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    args = parser.parse_args()
    os.environ["LLM_STAGE_KEY"] = "benchmark"
    requests = [
        PromptRequest(f"u{n}", f"prompt {n} " + "[a title of a usual length (B00)]" * 20) for n in range(args.requests)
    ]
    command = [sys.executable, str(SERVER), "--latency", str(args.latency)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            settings = OpenAISettings(
                "m", server.stdout.readline().strip(), "LLM_STAGE_KEY", concurrency=args.concurrency
            )
            journal = Path(folder) / "journal.jsonl"
            fetch_openai(
                [PromptRequest("warm-up", "imports")], settings, Path(folder) / "warm-up.jsonl", progress=False
            )
            start, cpu = time.perf_counter(), time.process_time()
            replies = fetch_openai(requests, settings, journal, progress=False)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            start = time.perf_counter()
            fetch_openai(requests, settings, journal, progress=False)
            resume = time.perf_counter() - start
        finally:
            server.terminate()
    ideal = args.requests / args.concurrency * args.latency
    print(
        json.dumps(
            {
                "requests": args.requests,
                "ok": sum(reply.status == "ok" for reply in replies.values()),
                "concurrency": args.concurrency,
                "latency_s": args.latency,
                "seconds": round(seconds, 3),
                "ideal_seconds": round(ideal, 3),
                "share_of_ideal_throughput": round(ideal / seconds, 3),
                "requests_per_second": round(args.requests / seconds, 1),
                "client_cpu_ms_per_request": round(1000 * cpu / args.requests, 2),
                "seconds_when_all_is_journalled": round(resume, 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

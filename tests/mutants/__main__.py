"""Mutation tests: change the package in one place after the other, and print the changes that no test notices.

    make mutants                                           # everything below model/, semantic/ and evaluator/
    make mutants MUTANTS="--files model/pad --sample 200"  # part of it
    make mutants MUTANTS=--left                            # what survived, with the tests of today

Each mutant runs the tests that execute its line (recorded once), the quickest first, until one fails; it lives in a
copy of the tree. What has been tried stands in ``.cache/mutants``: after a stop the same command goes on, and later
runs try again only what survived, where tests have changed, and what files have changed. Mutants that change nothing
a test could see belong in ``equivalent.txt``: the second line that is printed of each, and the reason.

Why a script of our own: a process with torch and RecBole in memory is forked for each mutant, which begins its tests
in half a second; mutation packages begin a Python for each (many seconds of imports here), or trust a
rewritten function to behave in TorchScript, dataclasses and subclasses of RecBole's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container
from pathlib import Path
from typing import TextIO

from tests.mutants.changes import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "recbole_eimf"
FOLDERS = ("model", "semantic", "evaluator")
KILLED, SURVIVED, UNTESTED = "killed", "survived", "untested"
EQUIVALENT = Path(__file__).parent / "equivalent.txt"
_MEMORY = 6 << 30


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--files", nargs="*", default=[f"{f}/" for f in FOLDERS], help="parts of paths in the package")
    parser.add_argument("--sample", type=int, help="so many mutants at most, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="*", help="test files or folders; default: the mirror's and whole runs'")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests per mutant, the quickest first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "mutants", help="copies, records and results")
    parser.add_argument("--fresh", action="store_true", help="forget what has been tried")
    parser.add_argument("--left", action="store_true", help="only what survived before")
    parser.add_argument("--list", action="store_true", help="print what is known to survive, and try nothing")
    return parser.parse_args()


def only_run_in(work: Path) -> TextIO:
    """Hold the folder while the result is kept: two runs would write into the same copies."""
    lock = (work / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{work}: another run is at work there. Wait for it, or give another folder by --work.")
    return lock


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


# ---------------------------------------------------------------------- the tree's copies
def tree_files() -> list[str]:
    asked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in asked.stdout.splitlines() if (ROOT / name).is_file()]


def python_tests(root: Path, folder: str) -> list[Path]:
    """What decides the outcome of tests: all of a folder but this script."""
    return [p for p in sorted((root / folder).rglob("*.py")) if p.parent.name != "mutants"]


def make_copy(work: Path, slot: int) -> Path:
    """A copy of the tree, times kept: compiled files stay valid."""
    copy = work / str(slot)
    wanted = set(tree_files())
    for name in wanted:
        source, target = ROOT / name, copy / name
        if not target.is_file() or source.stat().st_mtime_ns != target.stat().st_mtime_ns:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for found in [*copy.glob("tests/**/*.py"), *copy.glob(f"{PACKAGE}/**/*.py")]:
        if str(found.relative_to(copy)) not in wanted:
            found.unlink()
    if (ROOT.parent / "shared").is_dir() and not (work / "shared").exists():
        (work / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return copy


# ---------------------------------------------------------------------- forked tests
def import_what_the_package_imports() -> None:
    """Import the packages that ours builds on, so that a fork has them."""
    names = set()
    for path in (ROOT / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    for name in sorted(names | {"pytest"}):
        if name.split(".")[0] not in (PACKAGE, "__main__", "torch_xla"):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    gc.collect()
    gc.freeze()


def fork_tests(copy: Path, tests: list[str], seconds: float, plugins: list | None = None) -> int:
    """Run tests of a copy in a forked process of limited time and memory; its id. It exits with pytest's code."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setpgid(0, 0)  # no session of its own: schedulers share time out by session, whatever is nice
        os.chdir(copy)
        log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path[:] = [str(copy)] + [p for p in sys.path if p and Path(p).resolve() != ROOT]
        for name in [n for n in sys.modules if n.split(".")[0] in ("tests", PACKAGE)]:
            del sys.modules[name]
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        signal.alarm(10 * int(seconds) + 60)  # for those that wait instead of computing
        import pytest

        options = ["-x"] if plugins is None else []
        base = ["-q", "-p", "no:cacheprovider", f"--basetemp={copy}/tmp", f"--rootdir={copy}"]
        code = int(pytest.main([*base, *options, *tests], plugins=plugins or []))
    finally:
        os._exit(code)


def end(child: int) -> None:
    """Kill what a forked process has left behind, itself included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


# ---------------------------------------------------------------------- which test executes which line
class Recorder:
    """A pytest plugin that notes the lines each test executes, fixtures of wider scope included, and its seconds."""

    def __init__(self, copy: Path, out: Path) -> None:
        self.prefix, self.out = f"{copy}/{PACKAGE}/", out
        self.lines: dict[str, set] = defaultdict(set)
        self.fixtures: dict[str, list[str]] = {}
        self.seconds: Counter = Counter()
        self.bad: set[str] = set()
        self.owner = ["import"]

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(self.prefix):
            return None
        self.lines[self.owner[-1]].add((frame.f_code.co_filename[len(self.prefix) :], frame.f_lineno))
        return self.trace

    def pytest_sessionstart(self) -> None:
        import threading

        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def pytest_runtest_protocol(self, item, nextitem) -> None:
        self.owner[:] = [item.nodeid]
        self.fixtures[item.nodeid] = [f"fixture {name}" for name in getattr(item, "fixturenames", ())]
        self.began = time.process_time()
        sys.settrace(self.trace)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "teardown":
            self.seconds[report.nodeid] = time.process_time() - self.began
        if report.outcome != "passed":
            self.bad.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        found = {}
        for test, fixtures in self.fixtures.items():
            lines = set().union(self.lines[test], *(self.lines[f] for f in fixtures))
            files = defaultdict(list)
            for file, line in sorted(lines):
                files[file].append(line)
            if test not in self.bad:
                found[test] = [round(self.seconds[test], 2), files]
        unfinished = self.out.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(self.out)


def _fixture_hook(recorder: Recorder):
    import pytest

    class Fixtures:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_fixture_setup(self, fixturedef, request):
            recorder.owner.append(f"fixture {fixturedef.argname}")
            yield
            recorder.owner.pop()

    return Fixtures()


def record(copy: Path, work: Path, files: list[str]) -> dict[str, list]:
    """Test -> [seconds, {file: lines}] of the tests that pass; each test file is recorded again when it changes."""
    package = digest(*(p.read_bytes() for p in sorted((copy / PACKAGE).rglob("*.py"))))
    common = [p.read_bytes() for p in python_tests(copy, "tests") if not p.name.startswith("test_")]
    found: dict[str, list] = {}
    for place, name in enumerate(files):
        key = digest(package.encode(), *common, (copy / name).read_bytes())
        out = work / "records" / f"{Path(name).stem}-{key}.json"
        if not out.is_file():
            print(f"recording {place + 1}/{len(files)} {name}", flush=True)
            out.parent.mkdir(exist_ok=True)
            recorder = Recorder(copy, out)
            child = fork_tests(copy, [name], 1200, [recorder, _fixture_hook(recorder)])
            try:
                _, status = os.waitpid(child, 0)
            finally:
                end(child)
            if status and not out.is_file():
                print(f"  {name} did not end (see {copy}/log.txt): its tests take no part")
                out.write_text("{}")
        found |= json.loads(out.read_text())
    return found


def tests_of(mutant: Mutant, recorded: dict[str, list], budget: float) -> tuple[list[str], float]:
    """The tests that execute the mutant's line, for what is executed at import those that execute its file; seconds."""
    file = mutant.path.removeprefix(f"{PACKAGE}/")
    touching = {test: (seconds, lines[file]) for test, (seconds, lines) in recorded.items() if file in lines}
    chosen = {t: s for t, (s, lines) in touching.items() if mutant.line in lines and not mutant.at_import}
    chosen = chosen or {t: s for t, (s, _) in touching.items()}
    stem = Path(file).stem
    order = sorted(chosen, key=lambda t: (f"test_{stem}.py" not in t and f"{stem}.py::" not in t, chosen[t], t))
    taken, total = [], 0.0
    for test in order:
        if total + chosen[test] <= budget or not taken:
            taken.append(test)
            total += chosen[test]
    return taken, total


# ---------------------------------------------------------------------- the run
def chosen_mutants(options: argparse.Namespace) -> list[Mutant]:
    every = [n for n in tree_files() if n.startswith(f"{PACKAGE}/") and n.endswith(".py")]
    files = [n for n in every if any(part in n for part in options.files)]
    found = [m for name in files for m in mutants_of(name, (ROOT / name).read_bytes())]
    listed = EQUIVALENT.read_text(encoding="utf-8")
    whole = {Path(n).name for n in files} - {Path(n).name for n in set(every) - set(files)}  # some share a name
    for key in stale(listed, found, whole):
        print(f"{EQUIVALENT.name}: no such mutant any more: {key}")
    equivalent = set(keys_of(listed))
    found = [m for m in found if m.key not in equivalent]
    random.Random(options.seed).shuffle(found)
    return found


def keys_of(listed: str) -> list[str]:
    """What each line of the list of equivalent mutants names."""
    return [line.partition("  ## ")[0].strip() for line in listed.splitlines() if not line.startswith("#")]


def stale(listed: str, mutants: list[Mutant], files: Container[str]) -> list[str]:
    """What the list names that is none of ``mutants``, which are all those of ``files`` (their names): lines that have
    changed since."""
    keys = {mutant.key for mutant in mutants}
    return [key for key in keys_of(listed) if key not in keys and key.partition(" ")[0] in files]


def mirror(path: str) -> str:
    return f"tests/{Path(path).parent.relative_to(PACKAGE)}"


def mirrored_tests(mutants: list[Mutant], asked: list[str] | None) -> list[str]:
    """Test files in the folders that mirror the mutants', those of whole runs, and the files' own doctests."""
    folders = asked or sorted({mirror(m.path) for m in mutants})
    found = [n for n in tree_files() if any(n == f or n.startswith(f"{f}/") for f in folders)]
    found += [] if asked else [n for n in tree_files() if n.startswith("tests/") and n.count("/") == 1]
    tests = [n for n in found if Path(n).name.startswith("test_")]
    doctests = [n for n in sorted({m.path for m in mutants}) if b">>> " in (ROOT / n).read_bytes()]
    return tests + doctests


class Results:
    """What has been tried, a line of JSON each: survives a stop."""

    def __init__(self, path: Path, mutants: list[Mutant]) -> None:
        self.path, self.known = path, {}
        files = {mutant.path for mutant in mutants}
        self.sources = {file: digest((ROOT / file).read_bytes()) for file in files}
        self.tests = {file: digest(*(p.read_bytes() for p in python_tests(ROOT, mirror(file)))) for file in files}
        if path.is_file():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.known[row["mutant"]] = row

    def name(self, mutant: Mutant) -> str:
        return f"{mutant} @{mutant.start} {self.sources[mutant.path]}"

    def of(self, mutant: Mutant) -> str | None:
        row = self.known.get(self.name(mutant))
        fresh = row and (row["outcome"] == KILLED or row["tests"] == self.tests[mutant.path])
        return row["outcome"] if fresh else None

    def survived(self, mutant: Mutant) -> bool:
        """Whether it did when it was tried last, with whatever tests."""
        return self.known.get(self.name(mutant), {"outcome": KILLED})["outcome"] != KILLED

    def add(self, mutant: Mutant, outcome: str, by: str = "") -> None:
        row = {"mutant": self.name(mutant), "outcome": outcome, "tests": self.tests[mutant.path], "by": by}
        self.known[row["mutant"]] = row
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def failed_test(copy: Path) -> str:
    text = (copy / "log.txt").read_text(errors="replace")
    return next((line.split(" - ")[0][7:] for line in text.splitlines() if line.startswith(("FAILED", "ERROR "))), "")


def try_all(
    mutants: list[Mutant], recorded: dict[str, list], results: Results, copies: list[Path], budget: float
) -> None:
    left = [m for m in mutants if results.of(m) is None]
    if len(left) < len(mutants):
        print(f"{len(mutants) - len(left)} of {len(mutants)} have been tried before")
    running: dict[int, tuple[Mutant, Path]] = {}
    progress = Progress(len(left))
    try:
        for mutant in [*left, *[None] * len(copies)]:
            while running and (mutant is None or len(running) == len(copies)):
                child, status = os.wait()
                end(child)
                tried, copy = running.pop(child)
                shutil.copy2(ROOT / tried.path, copy / tried.path)
                outcome = KILLED if status else SURVIVED
                results.add(tried, outcome, failed_test(copy) if status else "")
                progress.add(tried, outcome)
            if mutant is None:
                continue
            tests, seconds = tests_of(mutant, recorded, budget)
            if not tests:
                results.add(mutant, UNTESTED)
                progress.add(mutant, UNTESTED)
                continue
            copy = next(c for c in copies if c not in [used for _, used in running.values()])
            target = copy / mutant.path
            target.write_bytes(mutant.applied((ROOT / mutant.path).read_bytes()))
            for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*"):
                compiled.unlink()
            running[fork_tests(copy, tests, 20 + 5 * seconds)] = (mutant, copy)
    finally:
        for child in running:
            end(child)


class Progress:
    """Prints what survives as it is found, and every half a minute how far the run is and what is left of it."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, Counter()
        self.began = self.said = time.time()

    def add(self, mutant: Mutant, outcome: str) -> None:
        self.done[outcome] += 1
        if outcome != KILLED:
            print(f"{outcome}: {mutant}\n    {mutant.key}", flush=True)
        count, now = self.done.total(), time.time()
        if now - self.said > 30 or count == self.total:
            minutes = (now - self.began) / count * (self.total - count) / 60
            print(f"  {count}/{self.total}: {self.done[KILLED]} killed, about {minutes:.0f} min left", flush=True)
            self.said = now


def summary(mutants: list[Mutant], results: Results) -> None:
    folders: dict[str, Counter] = defaultdict(Counter)
    for mutant in mutants:
        folders[str(Path(mutant.path).parent)][results.of(mutant) or "not tried"] += 1
    print("\nleft:")
    for mutant in sorted(mutants, key=lambda m: (m.path, m.line)):
        if results.of(mutant) in (SURVIVED, UNTESTED):
            print(f"{results.of(mutant)}: {mutant}\n    {mutant.key}")
    for folder, counts in sorted(folders.items()):
        print(f"{folder}: {counts.total()} mutants, " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))


def main() -> None:
    options = arguments()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop like Ctrl-C
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    lock = None if options.list else only_run_in(options.work)  # noqa: F841
    if options.fresh:
        (options.work / "results.jsonl").unlink(missing_ok=True)
    mutants = chosen_mutants(options)
    results = Results(options.work / "results.jsonl", mutants)
    if options.left:
        mutants = [mutant for mutant in mutants if results.survived(mutant)]
    mutants = mutants[: options.sample]
    if not options.list:
        import_what_the_package_imports()
        copies = [make_copy(options.work, slot) for slot in range(options.jobs)]  # of the tests as they are now
        try:
            recorded = record(copies[0], options.work, mirrored_tests(mutants, options.tests))
            try_all(mutants, recorded, results, copies, options.budget)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here")
    summary(mutants, results)


if __name__ == "__main__":
    main()

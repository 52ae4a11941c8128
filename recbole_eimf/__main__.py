"""Command line: ``python -m recbole_eimf COMMAND ...``; see USAGE for the commands."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from io import TextIOWrapper

from recbole_eimf.cli.usage import usage_shown, written_usage
from recbole_eimf.core import parts
from recbole_eimf.core.disk import refusal
from recbole_eimf.core.errors import DiskError, UserError, suggestion

USAGE = """usage: python -m recbole_eimf COMMAND ...

commands:
  run        train and evaluate a model: run --model=EIMF --dataset=ml-100k [--key=value ...]
  keys       every configuration key: keys [word] [--markdown | --json-schema]
  explain    a key's value and which file and line set it: explain KEY [--model=NAME] [--key=value ...]
  prepare    write atomic files from raw data: prepare csv|amazon-2014|amazon-2018|amazon-2023|movielens|mind-news ...
  interests  the LLM stage alone: interests --dataset=NAME --interest_source=openai|file|batch|keywords
             [--dry-run | --yes] [--key=value ...]
  knowledge  what an LLM knows of each item: knowledge --dataset=NAME --knowledge_source=openai|batch|file|shuffled
             [--dry-run | --yes] [--key=value ...]
  tune       search a model's settings on Ray: tune --model=EIMF --dataset=ml-100k [--samples=20] [--out=DIR]
  compare    train several models with several seeds, one table: compare --models SASRec,EIMF[SASRec] --dataset NAME
             --out DIR [--seeds 5] [--key=value ...]
  study      a paper's experiment from a YAML file: study eimf_ablation --dataset=NAME [--key=value ...]
  standings  the arena's page over tables made apart: standings TABLE ... [--out DIR] [--metrics NDCG@10]
  differ     are runs that were made apart different, over all targets or a slice: differ A B [--slices=1-5,tied]
  agreement  do two runs see the same items as near (Kendall's tau, distances): agreement RUN_A RUN_B [--out=DIR]
  export     a run to a model folder that is served without RecBole: export --run OUT --out MODEL
  recommend  items for a user, a history or a file of histories: recommend --model MODEL --history A,B --k 10
  add        new items into a model folder, by title: add --model MODEL --items FILE --out MODEL2
  explore    a run's LLM part as one offline page: explore --run OUT [--against OUT2] --out page.html
  serve      a model folder over HTTP, with a page to try it: serve MODEL --port 8000 [--workers N]

--version    what a bug report should hold: versions of this, Python, torch, GPUs and libraries
"""


def run_command(arguments: list[str]) -> int:
    """Run ``--key=value`` arguments: ``--model`` (default EIMF), ``--dataset``, ``--config_files``, any RecBole key."""
    if arguments[:1] == ["--version"]:
        print(parts.versions())
        return 0
    return _guarded("run", arguments)


#: each is ``recbole_eimf.cli.<name>``, imported when it is asked for
COMMANDS = ("run", "keys", "explain", "prepare", "interests", "knowledge", "tune", "compare", "study", "standings",
            "differ", "agreement", "export", "recommend", "add", "serve", "explore")  # fmt: skip


def _guarded(command: str, arguments: list[str]) -> int:
    """Run a command; a user's error or a disk's refusal is a message and exit code 2, an interruption 130."""
    if isinstance(sys.stdout, TextIOWrapper):
        # a title that the terminal's encoding lacks is shown escaped, as standard error does: no reason to end in the
        # middle of work
        with contextlib.suppress(OSError):  # an output that cannot be told so keeps its way
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        asked = {"-h", "--help"} & {*arguments}
        if asked and (usage := written_usage(command)) is not None:
            code = usage_shown(arguments, usage)
        else:
            code = import_module(f"recbole_eimf.cli.{command}").main(arguments)
        _flush()
        return code
    except BrokenPipeError:  # `... | head` has read enough
        _drop_output()
        return 141  # as a program that SIGPIPE ends
    except OSError as error:
        found = refusal(error) or _output_refused()
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = parts.explain(error)
        if missing is None:
            raise
        print(f"error: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _flush() -> None:
    if sys.stdout is not None:  # whoever starts a program may have closed it
        sys.stdout.flush()


def _drop_output() -> None:
    """What stdout still holds has nowhere to go, and Python would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _output_refused() -> DiskError | None:
    """The error to show where it is the output that a disk refuses, such as a log's on a full one; else None.

    What was refused may be forgotten by now, so a line is written once more.
    """
    try:
        print(flush=True)
    except OSError as error:
        found = refusal(error, "the output")
        if found is not None:
            _drop_output()
        return found
    return None


def main(arguments: list[str] | None = None) -> int:
    """Dispatch to a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(parts.versions())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = suggestion(name, COMMANDS) or (" It is a study: `study arena`." if name == "arena" else "")
        print(f"error: no command {name!r}.{near} There are {', '.join(COMMANDS)}; --help says more.", file=sys.stderr)
        return 2
    return _guarded(name, rest)


if __name__ == "__main__":
    sys.exit(main())

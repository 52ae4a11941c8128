"""Progress in a file is lines that can be read, and not many of them; on a terminal it is a bar."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from recbole_eimf.core.bars import Lines, bar, moves
from recbole_eimf.experiment.run_log import Screen
from recbole_eimf.study import progress
from recbole_eimf.study.progress import Reading


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_a_file_gets_a_line_a_minute(clock):
    file = io.StringIO()
    for _ in bar(range(10), desc="\x1b[1;35mTrain 3\x1b[0m", file=file, ncols=100):
        clock(20)
    assert file.getvalue().splitlines() == [
        "Train 3: 30%, 3 of 10, 01:00, 02:20 left",
        "Train 3: 60%, 6 of 10, 02:00, 01:20 left",
        "Train 3: 90%, 9 of 10, 03:00, 00:20 left",
    ]


def test_a_step_may_be_many_at_once(clock):
    file = io.StringIO()
    with bar(total=100, desc="read", file=file) as shown:
        for _ in range(4):
            clock(31)
            shown.update(25)
    assert file.getvalue().splitlines() == [
        "read: 50%, 50 of 100, 01:02, 01:02 left",
        "read: 100%, 100 of 100, 02:04, 00:00 left",
    ]


@pytest.mark.parametrize(("terminal", "lines"), [("stderr", False), ("stdout", True)])
def test_a_bar_goes_to_stderr_and_looks_as_that_needs(monkeypatch, terminal, lines):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal() if name == terminal else io.StringIO())
    with bar(total=1) as shown:
        assert isinstance(shown, Lines) == lines


def test_what_is_said_beside_a_bar_makes_no_more_lines(clock):
    file = io.StringIO()
    with bar(total=100, desc="pretrain", file=file) as shown:
        for step in range(100):
            clock(1)
            shown.update()
            shown.set_postfix_str(f"epoch {step // 10}")
    assert file.getvalue() == "pretrain: 60%, 60 of 100, 01:00, 00:40 left, epoch 5\n"


def test_a_note_at_every_batch_leaves_the_count_right(clock):
    """A GPU's memory is set beside the bar after each."""
    file = io.StringIO()
    shown = bar(range(1000), desc="Train 3", file=file)
    for step in shown:
        clock(0.5)
        shown.set_postfix_str(f"{step} GB")
    found = [line.split(", ")[:2] for line in file.getvalue().splitlines()]
    assert found == [[f"Train 3: {12 * n}%", f"{120 * n} of 1000"] for n in range(1, 9)]


class Tee:
    """What programs put in the place of stderr."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_stream_that_cannot_say_what_it_is_is_a_file(clock):
    file = Tee()
    for _ in bar(range(4), desc="Train 3", file=file):
        clock(40)
    assert file.text.splitlines() == [
        "Train 3: 50%, 2 of 4, 01:20, 01:20 left",
        "Train 3: 100%, 4 of 4, 02:40, 00:00 left",
    ]
    closed = io.StringIO()
    closed.close()
    assert not moves(closed)


def test_a_notebook_gets_a_bar_that_moves_in_tables_too(monkeypatch, capsys):
    """A kernel's stream is no terminal."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    look = lambda: [Reading("SASRec/7", "SASRec", True, "done", seconds=3.0)]  # noqa: E731
    with progress.moving(look, progress.progress_in_words, 1, "runs") as shown:
        shown.refresh()
    assert "\rruns: 100% |" in capsys.readouterr().err
    shell = None
    assert not moves(io.StringIO())


def test_short_work_says_nothing_in_a_file(clock):
    file = io.StringIO()
    for _ in bar(range(50), desc="Evaluate", file=file):
        clock(1)
    assert file.getvalue() == ""


def test_lines_of_two_bars_do_not_move_each_other(clock):
    file = io.StringIO()
    with bar(total=2, desc="outer", file=file) as outer, bar(total=4, desc="inner", file=file) as inner:
        for _ in range(4):
            clock(61)
            inner.update()
        outer.update()
    assert [line.split(":")[0] for line in file.getvalue().splitlines()] == ["inner"] * 4 + ["outer"]
    assert not {"\r", "\x1b"} & {*file.getvalue()}


def test_a_terminal_gets_a_bar():
    file = Terminal()
    for _ in bar(range(3), desc="Train 3", file=file, mininterval=0):
        pass
    assert "\rTrain 3: 100%|" in file.getvalue()


@pytest.mark.parametrize(("kind", "colours"), [(io.StringIO, False), (Terminal, True)])
def test_lines_have_colours_where_they_can_be_seen(kind, colours):
    screen = Screen(kind())
    screen.setFormatter(logging.Formatter("\x1b[33m%(message)s\x1b[0m"))
    screen.emit(logging.LogRecord("a", logging.WARNING, "a.py", 1, "no text", None, None))
    assert screen.stream.getvalue() == ("\x1b[33mno text\x1b[0m\n" if colours else "no text\n")


def test_a_table_in_a_file_says_each_run_that_ends(monkeypatch, capsys):
    states = iter(["waiting", "running", "done"])

    def look():
        return [Reading("SASRec/7", "SASRec", True, next(states), seconds=3.0)]

    with progress.moving(look, progress.progress_in_words, 1, "runs") as shown:
        shown.refresh()
        shown.refresh()
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "runs:   0% 00:00, 0 of 1 runs, about 1 min left",
        "runs:   0% 00:00, 0 of 1 runs, about 1 min left; SASRec/7",
        "runs: 100% 00:00, 1 of 1 runs, all made",
    ]

"""Saved and loaded user splits."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment import assembly
from tests.conftest import write_atomic
from tests.data.test_ties import write


def parts_of(make_config, **keys):
    return assembly.datasets(make_config("IBIM", **{"protocol": "user_split", **keys}))[1]


def tokens(part):
    return set(part.field2id_token["user_id"][part.spans.user])


@pytest.mark.parametrize("name", ["split.csv", "split.csv.gz"])
def test_a_split_is_the_same_after_saving_and_loading(make_config, tmp_path, name):
    path = tmp_path / "made" / name
    saved = parts_of(make_config, save_split=str(path), split_seed=3)
    text = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    lines = text.decode().splitlines()
    assert lines[0] == "user_id,part"
    assert len(lines) == 121
    assert {line.split(",")[0] for line in lines if line.endswith(",test")} == tokens(saved[2])
    before = path.read_bytes()
    loaded = parts_of(make_config, split_file=str(path), split_seed=99, save_split=str(path))
    assert path.read_bytes() == before
    assert not name.endswith("gz") or before[4:8] == bytes(4), "a time in the file makes equal splits differ"
    for old, new in zip(saved, loaded):
        assert np.array_equal(old.flat, new.flat)
        for field in ("user", "start", "middle", "end"):
            assert np.array_equal(getattr(old.spans, field), getattr(new.spans, field))
    with pytest.raises(ConfigError, match="holds another split"):
        parts_of(make_config, save_split=str(path), split_seed=4)


def test_a_split_holds_those_too_who_can_be_asked_nothing_where_times_stay_together(make_config, tmp_path):
    """Whoever bought everything at one time is held out of nothing there, and in the file all the same."""
    baskets = {f"u{u}": [(i % 10, 1 if u < 10 else i) for i in range(u, u + 4)] for u in range(30)}
    keys = {"dataset": "baskets", "data_path": str(write(tmp_path, baskets)), "protocol": "user_split"}
    path = tmp_path / "split.csv"
    config = make_config("Popularity", **keys, ties="together", save_split=str(path))
    made = assembly.datasets(config)[1]
    assert len(path.read_text().splitlines()) == 31
    again = assembly.datasets(make_config("Popularity", **keys, ties="together", split_file=str(path)))[1]
    assert [tokens(part) for part in made] == [tokens(part) for part in again]
    assembly.datasets(make_config("Popularity", **keys, ties="source", save_split=str(path)))  # the same one


def test_any_programs_split_is_followed(make_config, tmp_path):
    """Shuffled lines, quotes, a byte order mark, Windows line ends; parts of any size."""
    part = {u: "test" if u % 3 == 0 else "valid" if u % 5 == 0 else "train" for u in range(120)}
    rows = [f'"u{u}",{part[u]}' for u in np.random.default_rng(0).permutation(120)]
    path = tmp_path / "theirs.csv"
    path.write_bytes("\ufeff".encode() + "\r\n".join(["user_id,part", *rows, ""]).encode())
    loaded = parts_of(make_config, split_file=str(path))
    for name, found in zip(("train", "valid", "test"), loaded):
        assert tokens(found) == {f"u{u}" for u in part if part[u] == name}
        assert (np.diff(found.spans.user) > 0).all()
    spans = loaded[2].spans
    assert (spans.middle - spans.start == ((spans.end - spans.start) * 0.8).astype(int)).all()


GOOD = {f"u{u}": "train" if u < 100 else "valid" if u < 110 else "test" for u in range(120)}


def lines_of(parts):
    return ["user_id,part", *(f"{user},{part}" for user, part in parts.items())]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["user,part", *lines[1:]], "split.csv, line 1: expected 'user_id,part', got 'user,part'"),
        (lambda lines: [*lines, "u1,train,x"], "line 122: expected 2 values, got 3"),
        (lambda lines: [*lines[:5], "u4,tran", *lines[6:]], "line 6: part 'tran' is not train, valid or test. Did you"),
        (lambda lines: [*lines, "stranger,test"], "line 122: user 'stranger' is not in the data"),
        (lambda lines: [*lines, "[PAD],test"], r"line 122: user '\[PAD\]' is not in the data"),
        (lambda lines: [*lines, "u5,train"], "line 122: user 'u5' is in line 7 too"),
        (lambda lines: lines[:-3], "split.csv: 3 users of the data are in no line, for example 'u"),
        (lambda lines: [line.replace("valid", "train") for line in lines], "split.csv: no user has part valid"),
        (lambda lines: lines[:1], "split.csv: names no user"),
        (lambda lines: [*lines, '"u1'], "line 122: not CSV"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_named_with_its_line(make_config, tmp_path, change, message):
    path = tmp_path / "split.csv"
    path.write_text("\n".join(change(lines_of(GOOD))))
    with pytest.raises(DataError, match=message):
        parts_of(make_config, split_file=str(path))


def test_a_held_out_user_needs_two_interactions(make_config, tmp_path):
    write_atomic(tmp_path, "short", [[0, 1, 2, 3]] * 11 + [[1]])
    parts = {f"u{u}": ("train", "valid", "test")[u % 3] for u in range(12)}
    path = tmp_path / "split.csv"
    path.write_text("\n".join(lines_of(parts)))
    keys = {"dataset": "short", "data_path": str(tmp_path), "split_file": str(path)}
    with pytest.raises(DataError, match="line 13: user 'u11' has 1 interaction, test needs an input and a target"):
        parts_of(make_config, **keys)
    path.write_text("\n".join(lines_of({**parts, "u11": "train"})))
    assert "u11" in tokens(parts_of(make_config, **keys)[0])
    path.write_text("\n".join(lines_of({k: v for k, v in parts.items() if k != "u11"})))
    assert len(parts_of(make_config, **keys)[2].spans) == 3


def test_files_that_cannot_be_read_and_keys_that_do_nothing_are_named(make_config, tmp_path):
    with pytest.raises(ConfigError, match="split_file=nowhere.csv: no such file.*--save_split=nowhere.csv"):
        parts_of(make_config, split_file="nowhere.csv")
    broken = tmp_path / "split.csv.gz"
    for content in (b"user_id,part\n", gzip.compress(b"user_id,part\nu1,train\n" * 99)[:-12]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match="split.csv.gz: not readable as gzip"):
            parts_of(make_config, split_file=str(broken))
    latin = tmp_path / "latin.csv"
    latin.write_bytes("user_id,part\nJosé,train\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin.csv: not UTF-8 text"):
        parts_of(make_config, split_file=str(latin))


@pytest.mark.parametrize(
    ("key", "value", "protocol", "reads"),
    [
        ("split_file", "x.csv", "leave_one_out", "user_split"),
        ("save_split", "x.csv", "global_time", "user_split"),
        ("split_ratios", [0.6, 0.2, 0.2], "leave_one_out", "user_split"),
        ("time_dates", "2014-03-07,2014-05-13", "leave_one_out", "global_time"),
        ("time_quantiles", [0.7, 0.8], "user_split", "global_time"),
        ("time_target", "last", "user_split", "global_time"),
    ],
)
def test_a_key_of_another_protocol_is_refused(make_config, key, value, protocol, reads):
    with pytest.raises(ConfigError, match=rf"{key}=.*protocol={protocol} does not read it.*--protocol={reads}\."):
        make_config("IBIM", protocol=protocol, **{key: value})


@pytest.mark.parametrize(
    ("protocol", "read", "unread"),
    [("global_time", {"time_dates": "2014-03-07,2014-05-13"}, {"time_quantiles": [0.7, 0.8]}),
     ("user_split", {"split_file": "x.csv"}, {"split_ratios": [0.6, 0.2, 0.2]})],
)  # fmt: skip
def test_a_key_whose_place_another_one_takes_is_refused(make_config, protocol, read, unread):
    """To say what would be so anyway is no wish that is ignored."""
    (name, value), (other, wish) = *read.items(), *unread.items()
    with pytest.raises(ConfigError, match=rf"{name}={value}, {other}=.*only {name} would be read. Give one\."):
        make_config("IBIM", protocol=protocol, **read, **unread)
    usual = make_config("IBIM", protocol=protocol)[other]
    assert make_config("IBIM", protocol=protocol, **read, **{other: usual})[name] == value
    assert make_config("IBIM", protocol=protocol, **unread)[other] == wish

"""Side-loaded files that are damaged end in an error that names the file, and the line where there is one."""

import gzip
import json

import pytest

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import append_jsonl, read_jsonl
from recbole_eimf.semantic.sources.batch import fetch_file
from recbole_eimf.semantic.sources.side_loaded import read_assignment
from tests.semantic.damage import USERS, assignment, damaged_assignments, damaged_replies, replies


@pytest.mark.parametrize("seed", [3, 4])
def test_damaged_files_are_read_or_named(tmp_path, seed):
    """A small sample; ``python -m tests.semantic.damage`` counts over any number."""
    read_whole, complaints = 0, []
    for files, read in ((damaged_assignments, read_assignment), (damaged_replies, lambda p: fetch_file(None, p))):
        for name, kind, content in files(99, seed):
            (tmp_path / name).write_bytes(content)
            try:
                read(tmp_path / name)
                read_whole += 1
            except DataError as error:
                complaints.append((name, kind, str(error)))
    assert [c for c in complaints if c[0] not in c[2] or len(c[2]) > 1000] == []
    assert min(read_whole, len(complaints)) > 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user_id,exemplar_user_id\nu1,u2\nu2,\xff\n", r"not UTF-8 text \(line 3, byte 34\)"),
        (b"exemplar_user_id,user_id\nu1,u2\n", "line 1: expected 'user_id,exemplar_user_id', got 'exemplar_user_id,"),
        (b"", "line 1: expected 'user_id,exemplar_user_id', got ''"),
        (b"user_id,exemplar_user_id\n", "names no user_id"),
        (b"user_id,exemplar_user_id\nu1,u2\nu2\n", "line 3: expected 2 values, got 1"),
        (b"user_id,exemplar_user_id\nu1,\n", "line 2: expected two ids"),
        (b"user_id,exemplar_user_id\nu1,u2\nu3,u2\nu1,u3\n", "line 4: user 'u1' has another exemplar in line 2"),
        (b"user_id,exemplar_user_id\nu1,u\x002\n", "line 2: (exemplar_user_id 'u.x002' holds a control|not CSV)"),
        (b'user_id,exemplar_user_id\nu1,"u2\nu3,u2\n', "line 3: not CSV"),
        (b"PAR1\x15\x04\xff", r": a parquet file, not text\. .*read_parquet"),
        (b"PK\x03\x04\x14\x00", r": a zip archive or an Excel workbook, not text\. .*as csv"),
        (
            gzip.compress(b"user_id,exemplar_user_id\nu1,u2\n", mtime=0),
            r": packed with gzip\. Name it assignment.csv.gz",
        ),
        (b'{"user_id": "u1", "exemplar_user_id": "u2"}\n', r"line 1: JSON, not CSV\. .*read_json"),
        (b"user_id,exemplar_user_id\nu1," + b"u" * 200_000 + b"\n", "line 2: not CSV .field larger"),
    ],
)
def test_an_assignment_is_refused_at_its_line(tmp_path, content, message):
    path = tmp_path / "assignment.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"assignment.csv.*{message}"):
        read_assignment(path)


def test_good_files_are_read_whatever_wraps_them(tmp_path):
    for name, content in (
        ("a.csv", assignment()),
        ("a.csv.gz", gzip.compress(assignment(), mtime=0)),
        ("a.csv", b"\xef\xbb\xbf" + assignment().replace(b"\n", b"\r\n")),
    ):
        (tmp_path / name).write_bytes(content)
        assert len(read_assignment(tmp_path / name)) == USERS
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + replies().replace(b"\n", b"\r\n"))
    assert len(fetch_file(None, tmp_path / "r.jsonl")) == USERS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"user_id": "x", "response": "\xff"}', "not UTF-8 text"),
        (b'{"user_id": ' + b"[" * 100_000, "not JSON .brackets nested too deep"),
        (b'{"user_id": ' + b"1" * 5000 + b"}", "not JSON .Exceeds the limit"),
        (b'{"user_id": "x"', "not JSON"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_replies_are_refused_at_their_line(tmp_path, line, message, last):
    path = tmp_path / "r.jsonl"
    lines = replies().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], line, *([] if last else lines[3:])]))
    with pytest.raises(DataError, match=f"r.jsonl, line 4: {message}"):
        fetch_file(None, path)


def test_a_kill_in_the_middle_of_a_letter_is_half_a_last_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    append_jsonl(path, [{"n": 1}, {"text": "café"}])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index("é".encode()) + 1])
    assert [record for _, record in read_jsonl(path)] == [{"n": 1}]
    append_jsonl(path, [{"n": 2}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"n": 1}, {"n": 2}]

"""Side-loaded replies that may have seen held-out items."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import defaultdict

import pytest

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.core.errors import DataError
from recbole_eimf.data.item_text import clean_text
from recbole_eimf.experiment import assembly
from recbole_eimf.semantic.llm.prompt import load_template
from recbole_eimf.semantic.reply_check import PromptForm, checked_replies
from tests.conftest import TITLES, planted_sequences


def digest_of(sequence, titles=TITLES, items=20):
    """Written from the paper's prompt: the latest items, oldest first, each as [title (ID)]."""
    template = (properties_folder() / "prompts" / "interests.txt").read_text(encoding="utf-8").rstrip("\n")
    listed = "".join(f"[{titles[i]} (i{i})]" for i in sequence[-items:])
    return hashlib.sha256(template.replace("{history}", listed).encode()).hexdigest()


@pytest.fixture
def side_keys(tmp_path):
    """``side_keys(cut, with_digest=True)``: keys that load replies of u0 to u2 made of ``sequence[:cut]``."""

    def write(cut, with_digest=True):
        lines = []
        for user, sequence in enumerate(planted_sequences()[:3]):
            line = {"user_id": f"u{user}", "response": json.dumps({"1": f"nail polish {user}"})}
            lines.append(line | ({"prompt_sha256": digest_of(sequence[:cut])} if with_digest else {}))
        path = tmp_path / "interests.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"interest_source": "file", "interest_file": str(path)}

    return write


def side_of(config):
    return assembly.datasets(config)[1][0].side


def counts(side):
    names = ("this_history", "shorter_history", "another_history")
    return [side.report[f"replies_of_{name}"] for name in names] + [side.report["replies_unchecked"]]


def test_replies_of_whole_sequences_are_refused_under_leave_one_out(make_config, side_keys):
    with pytest.raises(DataError, match=r"3 of 3 replies.*'u0'.*allow_foreign_replies"):
        side_of(make_config("EIMF", **side_keys(None)))


def test_so_are_those_that_know_the_validation_item(make_config, side_keys):
    with pytest.raises(DataError, match="3 of 3 replies"):
        side_of(make_config("EIMF", **side_keys(-1)))


def test_a_placebo_shuffles_no_such_replies_either(make_config, side_keys):
    with pytest.raises(DataError, match="3 of 3 replies"):
        side_of(make_config("EIMF", **{**side_keys(None), "interest_source": "shuffled"}))


def test_the_check_comes_before_any_text_is_encoded(make_config, side_keys, monkeypatch):
    from recbole_eimf.semantic.pipeline import Pipeline

    monkeypatch.setattr(Pipeline, "encode", lambda *_: pytest.fail("encoded first"))
    with pytest.raises(DataError, match="3 of 3 replies"):
        side_of(make_config("EIMF", **side_keys(None)))


def test_allowed_foreign_replies_are_used_and_counted(make_config, side_keys, caplog):
    side = side_of(make_config("EIMF", allow_foreign_replies=True, **side_keys(None)))
    assert counts(side) == [0, 0, 3, 0]
    assert side.report["training_users_with_interests"] == 120
    assert "3 of 3 replies" in caplog.text


def test_replies_of_the_training_history_pass(make_config, side_keys):
    assert counts(side_of(make_config("EIMF", **side_keys(-2)))) == [3, 0, 0, 0]


def test_replies_of_less_than_the_history_pass(make_config, side_keys):
    """Those made for leave-one-out serve under a user split: they know nothing beyond the history."""
    assert counts(side_of(make_config("EIMF", **side_keys(-3)))) == [0, 3, 0, 0]
    side = side_of(make_config("EIMF", protocol="user_split", split_seed=0, **side_keys(-2)))
    used = counts(side)
    assert used[1] > 0
    assert used == [0, used[1], 0, 0]


def test_whole_sequences_pass_where_they_train(make_config, side_keys):
    side = side_of(make_config("EIMF", protocol="user_split", split_seed=0, **side_keys(None)))
    assert counts(side)[1:] == [0, 0, 0]


def test_replies_without_digests_are_said_to_be_unchecked(make_config, side_keys, caplog):
    side = side_of(make_config("EIMF", **side_keys(-2, with_digest=False)))
    assert counts(side) == [0, 0, 0, 3]
    assert "3 of 3 replies have no prompt_sha256" in caplog.text


def test_another_prompt_is_another_history(make_config, side_keys, tmp_path):
    other = tmp_path / "prompt.txt"
    other.write_text("What does one want who bought {history}?")
    with pytest.raises(DataError, match="prompt_file"):
        side_of(make_config("EIMF", prompt_file=str(other), **side_keys(-2)))


def test_items_without_text_may_be_listed_or_left_out():
    form = PromptForm("{history}", 2, ({"a": "A", "c": "C"},))
    listed = hashlib.sha256(b"[untitled (b)][C (c)]").hexdigest()
    left_out = hashlib.sha256(b"[A (a)][C (c)]").hexdigest()
    for digest in (listed, left_out):
        assert form.answers("u", ["a", "b", "c"], digest) == "this_history"
    assert form.answers("u", ["a", "b", "c", "c"], listed) == "shorter_history"
    assert form.answers("u", ["a", "b"], listed) == "another_history"


def test_prompts_of_fewer_text_columns_pass(make_config, side_keys, planted, tmp_path):
    """Replies asked with titles alone serve a run that encodes more columns."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "planted.inter").write_text((planted / "planted" / "planted.inter").read_text())
    lines = (planted / "planted" / "planted.item").read_text().splitlines()
    rows = [lines[0] + "\tbrand:token", *(f"{line}\tbrand {n}" for n, line in enumerate(lines[1:]))]
    (folder / "planted.item").write_text("\n".join(rows) + "\n")
    keys = {"data_path": str(tmp_path), "text_fields": ["title", "brand"], **side_keys(-2)}
    assert counts(side_of(make_config("EIMF", **keys))) == [3, 0, 0, 0]


# ---------------------------------------------------------------------- real replies
def read_real(shared, data):
    """(user -> [(item, time)] in the file's order, item -> title) of a real data set."""
    folder = shared / "datasets" / data

    def rows(name):
        with gzip.open(folder / name, "rt", encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)

    sequences = defaultdict(list)
    for row in rows("interactions.csv.gz"):
        sequences[row["user_id"]].append((float(row["order"]), row["item_id"], float(row["timestamp"])))
    titles = {row["item_id"]: clean_text(row["title"]) for row in rows("items.csv.gz")}  # as prepare writes them
    ordered = {user: [(item, time) for _, item, time in sorted(sequence)] for user, sequence in sequences.items()}
    return ordered, {item: title for item, title in titles.items() if title}


@pytest.mark.parametrize(
    ("replies", "data", "number"),
    [
        ("amazon-office", "amazon-office", 158),
        ("amazon-prime-pantry", "amazon-prime-pantry", 362),
        ("amazon-beauty", "amazon-beauty", 604),
        ("amazon-beauty-global-time", "amazon-beauty", 485),
    ],
)
def test_every_real_reply_answers_a_prompt_over_its_own_cut_of_the_history(shared, replies, data, number):
    sequences, titles = read_real(shared, data)
    folder = shared / "interests" / replies
    lines = [json.loads(line) for line in (folder / "interests.jsonl").read_text(encoding="utf-8").splitlines()]
    digests = {line["user_id"]: line["prompt_sha256"] for line in lines}
    form = PromptForm(load_template(None), 20, (titles,))
    leave_one_out = {user: [item for item, _ in sequences[user][:-2]] for user in digests}
    whole = {user: [item for item, _ in sequences[user]] for user in digests}
    if "global-time" not in replies:
        # made for leave-one-out: they fit its histories, and are shorter ones of the user split's
        assert checked_replies(form, digests, leave_one_out, "x", False)["replies_of_this_history"] == number
        assert checked_replies(form, digests, whole, "x", False)["replies_of_shorter_history"] == number
        return
    until = json.loads((folder / "meta.json").read_text())["T_val"]
    early = {user: [item for item, time in sequences[user] if time <= until] for user in digests}
    assert checked_replies(form, digests, early, "x", False)["replies_of_this_history"] == number
    assert checked_replies(form, digests, whole, "x", False)["replies_of_another_history"] == 0
    with pytest.raises(DataError, match=f"of {number} replies"):  # most know what leave-one-out holds out
        checked_replies(form, digests, leave_one_out, "x", False)

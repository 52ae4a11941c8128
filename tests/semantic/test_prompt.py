import csv
import gzip
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.llm.prompt import Exemplar, PromptRequest, build_prompt, load_template

SHARED = Path(__file__).parents[2].parent / "shared"


def exemplar(n=3):
    return Exemplar("u1", tuple(f"title {i}" for i in range(n)), tuple(f"I{i}" for i in range(n)))


def test_the_papers_prompt_word_for_word():
    assert build_prompt(exemplar(2), load_template(None)).prompt == (
        "The user's historical click sequence is as follows: [title 0 (I0)][title 1 (I1)]\n"
        "please infer the user's interest preference and output it in the format of JSON, "
        "such as interest sequence number: interest content;"
    )


def test_only_the_latest_items_oldest_first():
    assert build_prompt(exemplar(30), "{history}", max_items=2).prompt == "[title 28 (I28)][title 29 (I29)]"


def test_braces_in_titles_and_template_are_left_alone():
    odd = Exemplar("u", ("a {history} {0} %s", "b"), ("1", "2"))
    assert build_prompt(odd, 'As {"1": "x"}: {history}').prompt == 'As {"1": "x"}: [a {history} {0} %s (1)][b (2)]'


@pytest.mark.parametrize(
    ("title", "shown"),
    [("", "untitled"), ("two\nlines", "two lines"), ("x" * 500, "x" * 160), ("Ünïcode 茶", "Ünïcode 茶")],
)
def test_titles(title, shown):
    assert build_prompt(Exemplar("u", (title,), ("1",)), "{history}").prompt == f"[{shown} (1)]"


def test_sha256_is_of_the_prompt_alone():
    assert PromptRequest("a", "ü").sha256 == PromptRequest("b", "ü").sha256 == hashlib.sha256("ü".encode()).hexdigest()


@pytest.mark.parametrize("broken", [Exemplar("u7", (), ()), Exemplar("u7", ("a",), ("1", "2"))])
def test_an_exemplar_without_items_or_titles_is_named(broken):
    with pytest.raises(DataError, match="u7"):
        build_prompt(broken, "{history}")


def test_one_item_asked_for():
    assert build_prompt(exemplar(3), "{history}", max_items=1).prompt == "[title 2 (I2)]"


def test_no_items_asked_for():
    with pytest.raises(DataError, match="prompt_items=0"):
        build_prompt(exemplar(), "{history}", max_items=0)


def test_own_template(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Käufe: {history}\n", encoding="utf-8")
    assert build_prompt(exemplar(1), load_template(path)).prompt == "Käufe: [title 0 (I0)]"


@pytest.mark.parametrize("content", [b"no placeholder { history }", b"\xff\xfe{history}", None])
def test_a_bad_template_is_named(tmp_path, content):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="mine.txt"):
        load_template(path)


def test_properties_folder_holds_the_template():
    assert (properties_folder() / "prompts" / "interests.txt").is_file()


@pytest.mark.parametrize("name", ["amazon-beauty", "amazon-office", "amazon-prime-pantry"])
def test_reproduces_the_prompts_of_the_shared_replies(name):
    """The side-loaded replies carry the digest of the prompt they answer: ours must be that prompt, to the byte."""
    data, replies = SHARED / "datasets" / name, SHARED / "interests" / name / "interests.jsonl"
    if not (data.is_dir() and replies.is_file()):
        pytest.skip(f"no {data} or {replies}")
    wanted = {r["user_id"]: r["prompt_sha256"] for r in map(json.loads, replies.read_text().splitlines())}
    with gzip.open(data / "items.csv.gz", "rt", encoding="utf-8") as stream:
        titles = {row["item_id"]: row["title"] for row in csv.DictReader(stream)}
    histories = defaultdict(list)
    with gzip.open(data / "interactions.csv.gz", "rt", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["user_id"] in wanted:
                histories[row["user_id"]].append((int(row["order"]), row["item_id"]))
    template, got = load_template(None), {}
    for user, history in histories.items():
        items = tuple(item for _, item in sorted(history)[:-2])
        got[user] = build_prompt(Exemplar(user, tuple(titles[item] for item in items), items), template).sha256
    assert got == wanted

"""Refusals, placeholders, unfilled forms and error objects are no interests; real interests are."""

import json
from pathlib import Path

import pytest
import yaml

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.semantic.llm.reply import NO_INTERESTS, ReplyError, parse_interests
from recbole_eimf.semantic.refusal import is_error_object, refused
from tests.semantic.refusals import INTERESTS, LATER, corpus

SHARED = Path(__file__).parents[2].parent / "shared" / "interests"
AB = ["Nail art", "Hair care"]


def test_no_refusal_of_the_corpus_becomes_an_interest():
    replies = corpus()
    assert len(replies) > 700
    for kind, reply in replies:
        with pytest.raises(ReplyError):
            pytest.fail(f"{kind}: {reply!r} -> {parse_interests(reply)}")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ('{"1": "I\'m sorry, I cannot help."}', "refusal"),
        ("I'm sorry, I cannot help.", "refusal"),
        ("As an AI language model, I have no access to user data.", "refusal"),
        ('{"1": "N/A", "2": "Unknown"}', "placeholder"),
        ('{"1": "interest content"}', "template"),
        ('{"code": 429, "message": "slow down"}', "error object"),
        ("I love shopping!", "no interests"),
        ("[]", "no interests"),
    ],
)
@pytest.mark.parametrize("truncated", [True, False])
def test_the_kind_is_told(reply, kind, truncated):
    with pytest.raises(ReplyError, match="^No interests found.*Answer with one JSON object") as error:
        parse_interests(reply, truncated=truncated)
    assert (error.value.kind, error.value.final) == (kind, truncated)
    assert (kind in NO_INTERESTS) == (kind != "no interests")


@pytest.mark.parametrize("text", LATER)
def test_what_stands_for_no_interest(text):
    assert refused(text)
    assert refused(f"  **{text.upper()}** ")


@pytest.mark.parametrize("text", [*INTERESTS, *AB])
def test_what_is_an_interest(text):
    assert refused(text) is None
    found = parse_interests(json.dumps({"1": text, "2": "Stamps"}, ensure_ascii=False))
    assert len(found) == 2
    assert found[0].rstrip("'") in text


@pytest.mark.parametrize(
    "reply",
    [
        '{"1": "Nail art", "2": "N/A", "3": "Hair care", "4": "Unknown"}',
        '{"1": "N/A", "2": "Nail art", "3": "Hair care"}',
        '{"1": "Nail art", "2": "Hair care", "3": "I cannot determine a third interest"}',
        'I apologize for the confusion. Here it is: {"1": "Nail art", "2": "Hair care"}',
        "Sorry about that!\n1. Nail art\n2. Hair care",
        "As an AI language model, I infer:\n- Nail art\n- Hair care",
        '{"error": null, "interests": ["Nail art", "Hair care"]}',
        '{"error": "none", "1": "Nail art", "2": "Hair care"}',
        '{"status": "ok", "interests": ["Nail art", "Hair care"]}',
        '{"Nail art": {"id": 1}, "Hair care": true, "Dogs": false}',
    ],
)
def test_interests_among_other_things_are_kept(reply):
    assert parse_interests(reply) == AB


def test_error_objects():
    assert is_error_object({"Error": "x"})
    assert is_error_object([{"error-code": 3, "foo": 1}])
    assert is_error_object({"status": 500})
    for value in ({}, [], "error", {"title": "Nail art"}, {"message": "x", "1": "Nail art"}, [{"code": 1}] * 2):
        assert not is_error_object(value)


def test_the_file_of_expressions_holds_text_only():
    # YAML makes a mapping of an expression with ": " in it, and a boolean of a bare yes
    groups = yaml.safe_load((properties_folder() / "prompts" / "refusals.yaml").read_text(encoding="utf-8"))
    lines = [line for group in groups.values() for lines in group.values() for line in lines]
    assert len(lines) > 80
    assert [line for line in lines if not isinstance(line, str)] == []


@pytest.mark.parametrize("path", sorted(SHARED.glob("*/interests.jsonl")) or [None])
def test_real_replies_stay(path):
    if path is None:
        pytest.skip(f"no replies below {SHARED}")
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        assert len(parse_interests(record["response"])) == len(json.loads(record["response"]))

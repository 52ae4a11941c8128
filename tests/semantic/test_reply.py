import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from recbole_eimf.semantic.llm import reply_texts
from recbole_eimf.semantic.llm.reply import (
    ReplyError,
    completion_interests,
    completion_usage,
    parse_interests,
    reply_from_text,
)
from recbole_eimf.semantic.sources.batch import fetch_file
from recbole_eimf.semantic.trial import ask_terminal

SHARED = Path(__file__).parents[2].parent / "shared" / "interests"
AB = ["Nail art", "Hair care"]


@pytest.mark.parametrize(
    "response",
    [
        '{"1": "Nail art", "2": "Hair care"}',
        '["Nail art", "Hair care"]',
        '[["Nail art"], ["Hair care"]]',
        '[{"interest": "Nail art"}, {"interest": "Hair care"}]',
        '{"interest": "Nail art"}\n{"interest": "Hair care"}',
        '{"interest": "Nail art", "interest": "Hair care"}',
        '[{"id": 1, "content": "Nail art"}, {"id": 2, "content": "Hair care"}]',
        '[{"interest sequence number": 1, "interest content": "Nail art"}, '
        '{"interest sequence number": 2, "interest content": "Hair care"}]',
        '{"interests": {"1": "Nail art", "2": "Hair care"}}',
        # the prompt's own words
        '{"interest sequence number: interest content": {"1": "Nail art", "2": "Hair care"}}',
        '{"interest sequence number": {"1": "Nail art", "2": "Hair care"}}',
        '{"interest sequence number": ["Nail art", "Hair care"]}',
        '{"interest sequence number 1": "Nail art", "interest sequence number 2": "Hair care"}',
        '{"interest sequence number: 1": "interest content: Nail art", '
        '"interest sequence number: 2": "interest content: Hair care"}',
        '{"user": {"interests": ["Nail art", "Hair care"]}}',
        '{"user": {"1": "Nail art", "2": "Hair care"}}',
        '{"user": "A1", "1": "Nail art", "2": "Hair care"}',
        '{"data": {"status": "ok"}, "success": true, "1": "Nail art", "2": "Hair care"}',
        '{"likes": ["Nail art", "Hair care"], "dislikes": ["Lawn mowers"]}',
        "{“1”: “Nail art”, “2”: “Hair care”}",
        "| # | Interest | Why |\n|---|---|---|\n| 1 | Nail art | polish |\n| 2 | Hair care | shampoo |",
        '{"interests": ["Nail art", "Hair care"]}',
        '{"user_id": "U7", "userInterests": [{"interestName": "Nail art"}, {"interestName": "Hair care"}]}',
        '{"interests": {"main": ["Nail art"], "other": ["Hair care"]}, "summary": "A careful person"}',
        '{"interests": "1. Nail art\\n2. Hair care"}',
        '{"interests": "[\\"Nail art\\", \\"Hair care\\"]"}',
        '{"interests": " {\\"1\\": \\"Nail art\\", \\"2\\": \\"Hair care\\"}"}',
        '[{"interest": "Nail art"}, "Hair care"',
        '{"interest 1": "Nail art", "interest_2": "Hair care"}',
        '{"1": {"interest": "Nail art", "evidence": ["x", "y"]}, "2": {"interest": "Hair care", "evidence": []}}',
        '{"Nail art": 0.9, "Hair care": 0.4}',
        '{"Nail art": {"score": 1, "items": ["B01"]}, "Hair care": {"score": 2, "items": ["B02"]}}',
        '{"Likely interest": "Nail art", "Possible interest": "Hair care"}',
        '{"Office products": "Nail art", "At home": "Hair care"}',
        "{'1': 'Nail art', '2': 'Hair care'}",
        "{1: Nail art, 2: Hair care}",
        '{"1": "Nail art" "2": "Hair care"}',
        '{"1": "Nail art", "2": "Hair care",}',
        '{"1": "Nail art"; "2": "Hair care";}',
        '{"1": "Nail art", "2": "Hair care"',
        '{"1": "Nail art", "2": "Hair care}',
        '{"1": "Nail\nart", "2": "  Hair   care "}',
        '"{\\"1\\": \\"Nail art\\", \\"2\\": \\"Hair care\\"}"',
        '"1": "Nail art",\n"2": "Hair care"',
        "1. Nail art\n2. Hair care",
        "1: Nail art\n2: Hair care",
        "1) Nail art\n2) Hair care",
        "1、Nail art\n2、Hair care",
        "interest 1: Nail art\ninterest 2: Hair care",
        "**Interest 1:** Nail art\n\n**Interest 2:** Hair care",
        "Interest: Nail art\nInterest: Hair care",
        "- Nail art\n- Hair care",
        "* **Nail art**\n* **Hair care**",
        "The user bought [Gel pen (B01)] and so:\n1. Nail art\n   - for parties\n2. Hair care",
        '<think>Perhaps {"1": "Dogs"}?</think>\n{"1": "Nail art", "2": "Hair care"}',
        '{"1": "Nail art", "2": "nail  ART", "3": "Hair care", "4": "", "5": null, "6": "..."}',
        '{"1": "1. Nail art", "2": "Interest 2: Hair care"}',
        '{"1": "**\'Nail art\'**", "2": "__Hair care;__"}',
    ],
)
def test_shapes(response):
    assert parse_interests(response) == AB


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("Sure, as JSON: ", " Hope this helps {smile}!"),
        ("```json\n", "\n```"),
        ("Here:\n```\n", "\n```\nSee items [1] and [B002]."),
        ("```json\n", ""),
        ("\ufeff\n\n", "\n\n"),
        ("Given [Gel pen (B01)][Chair (B02)], ", ""),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_around_the_json(before, after, indent):
    for value in ({"1": AB[0], "2": AB[1]}, AB, {"interests": AB}, [{"interest": text} for text in AB]):
        assert parse_interests(before + json.dumps(value, indent=indent) + after) == AB


@pytest.mark.parametrize(
    ("response", "interests"),
    [
        ('{"1": "Nail art", "2": "Hair ca', ["Nail art"]),
        ('{"1": "Nail art", "2": "', ["Nail art"]),
        ('{"1": "Nail art", "2":', ["Nail art"]),
        ('{"1": "Nail art", "2', ["Nail art"]),
        ('{"interest": "Nail art", "interest"', ["Nail art"]),
        ('[{"interest": "Nail art"}, {"interest', ["Nail art"]),
        ('{"1": "Nail art",', ["Nail art"]),
        ('["Nail art", "Hair ca', ["Nail art"]),
        ('["", "Nail art", "Hair ca', ["Nail art"]),
        ('{"interests": ["Nail art", {"Hair care"', ["Nail art"]),
        ('```json\n{"interests": [{"interest": "Nail art"}, {"interest": "Hair ca', ["Nail art"]),
        ('{"1": "Say \\"hi\\"", "2": "cut \\', ['Say "hi']),
        ('{"1": "Nail art", "2": "Hair care"', AB),
    ],
)
@pytest.mark.parametrize("truncated", [True, False])
def test_a_cut_interest_is_left_out(response, interests, truncated):
    assert parse_interests(response, truncated=truncated) == interests


@pytest.mark.parametrize(
    "response",
    [
        '{"status": "success"}',
        '{"data": {"status": "success"}}',
        '{"success": true}',
        '{"user": "A1"}',
        '{"user_id": "A1", "rank": "first"}',
        '{"order": "ascending"}',
        '{"dislikes": ["Lawn mowers"]}',
    ],
)
def test_what_an_answer_is_wrapped_in_is_no_interest(response):
    with pytest.raises(ReplyError):
        parse_interests(response)


def test_control_characters_are_no_part_of_an_interest():
    assert parse_interests('{"1": "Nail\\u0000 art\\u0007", "2": "Hair\\u001bcare", "3": "\\u0000"}') == [
        "Nail art",
        "Hair care",
    ]


def test_one_number_in_a_text_is_no_list():
    assert parse_interests('{"1": "Nail art\\n2. at home", "2": "Hair care"}') == ["Nail art 2. at home", "Hair care"]


@pytest.mark.parametrize(
    "around", ["[{}]", '{{"1": {}}}', '{{"interests": {}}}', '{{"interest": {}}}', '{{"a b c": {}}}']
)
def test_a_reply_may_be_nested_twelve_deep_and_no_deeper(around):
    nested = '"Nail art"'
    for _ in range(12):
        nested = around.format(nested)
    assert parse_interests(nested) == ["Nail art"]
    try:
        assert "Nail art" not in parse_interests(around.format(nested))
    except ReplyError as error:
        assert "No interests" in str(error)  # noqa: PT017


def test_a_cut_line_is_left_out_only_where_the_cut_is_known():
    assert parse_interests("1. Nail art\n2. Hair ca", truncated=True) == ["Nail art"]
    assert parse_interests("1. Nail art\n2. Hair care") == AB
    assert parse_interests("1. Nail art\n2. Hair care.", truncated=True) == ["Nail art", "Hair care."]


def test_every_cut_of_a_reply_gives_whole_interests_only():
    whole = [f"interest of length {'x' * n}" for n in range(1, 6)]
    text = json.dumps(dict(enumerate(whole)), indent=1)
    for end in range(len(text) + 1):
        try:
            found = parse_interests(text[:end], truncated=True)
        except ReplyError:
            found = []
        assert found == whole[: len(found)]
        assert len(found) == sum(f"{json.dumps(interest)}" in text[:end] for interest in whole), text[:end]


@pytest.mark.parametrize(
    "text",
    [
        "3D printing",
        "24/7 help",
        "2.5 mm nails",
        'a 5" tape',
        "it's",
        "C++ & {braces}",
        "[brackets] inside",
        "茶と豆",
    ],
)
def test_texts_are_kept_as_they_are(text):
    assert parse_interests(json.dumps({"1": text, "2": "Hair care"}, ensure_ascii=False)) == [text, "Hair care"]


def test_an_unescaped_quote():
    assert parse_interests('{"1": "a 5" tape", "2": "Hair care"}') == ['a 5" tape', "Hair care"]


def test_at_most_max_interests_in_order():
    response = json.dumps({str(n): f"interest number {n}" for n in range(50)})
    assert parse_interests(response) == [f"interest number {n}" for n in range(20)]
    assert parse_interests(response, max_interests=3) == [f"interest number {n}" for n in range(3)]


@pytest.mark.parametrize(
    "response",
    [
        "",
        "  \n",
        "I cannot help with that.",
        "{}",
        "[]",
        "null",
        "[1, 2]",
        '{"1": null, "2": ""}',
        '{"interest sequence number": "interest content"}',
        '{"error": "quota"}',
        "[Gel pen (B01)][Chair (B02)]",
        "<think>hm, 1. Nail art",
        '{"1": "Nail ar',
    ],
)
def test_no_interests_is_a_complaint_to_the_model(response):
    with pytest.raises(ReplyError) as error:
        parse_interests(response)
    assert not error.value.final
    with pytest.raises(ReplyError) as error:
        parse_interests(response, truncated=True)
    assert error.value.final


@pytest.mark.parametrize(
    "response",
    [
        "[" * 50_000,
        "{" * 50_000,
        '{"a":' * 20_000,
        '[{"' * 10_000,
        '"' * 20_000,
        "a { b [" * 5000,
        "```" * 30_000,
        "1 " * 40_000,
    ],
    ids=lambda response: response[:5],
)
def test_run_away_replies_are_refused(response):
    with pytest.raises(ReplyError):
        parse_interests(response)


@pytest.mark.parametrize("brackets", ["{", "[", "{["])
def test_run_away_replies_are_not_repaired(monkeypatch, brackets):
    """Repairing takes quadratic time in the number of brackets."""
    asked = []
    monkeypatch.setattr(reply_texts.json_repair, "loads", lambda text, **keys: asked.append(text) or {"1": "Nail art"})
    assert parse_interests('{"1": ' + brackets * 400) == ["Nail art"]
    with pytest.raises(ReplyError):
        parse_interests('{"1": ' + brackets * 1100)
    assert len(asked) == 1


def test_what_the_repair_fails_at_is_unreadable():
    with pytest.raises(ReplyError, match="No interests found"):  # json_repair: AssertionError
        parse_interests('{"""\n"```json1````')


def test_half_an_emoji_can_be_written_to_a_file():
    assert [text.encode() for text in parse_interests('{"1": "Nails \\ud83d", "2": "Hair"}')] == [b"Nails ?", b"Hair"]


def test_whatever_comes_the_result_is_usable_or_a_reply_error():
    """Random damage to good replies: never another exception, never an unusable interest."""
    rng = random.Random(3)
    alphabet = '{}[]",:\\\n`1.a -'
    bases = [
        json.dumps({"1": AB[0], "2": AB[1]}),
        json.dumps({"interests": [{"interest": t} for t in AB]}),
        "1. a\n2. b",
    ]
    parsed = 0
    for base, _ in itertools.product(bases, range(700)):
        characters = list(base)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(characters) + 1)
            characters[at : at + rng.randint(0, 3)] = rng.choices(alphabet, k=rng.randint(0, 3))
        try:
            found = parse_interests("".join(characters), max_interests=4)
        except ReplyError:
            continue
        parsed += 1
        assert 1 <= len(found) <= 4
        assert all(text == " ".join(text.split()) and any(c.isalpha() for c in text) for text in found)
        assert len({text.casefold() for text in found}) == len(found)
    assert parsed > 1000


@pytest.mark.parametrize("name", ["amazon-beauty", "amazon-office", "amazon-prime-pantry", "amazon-beauty-global-time"])
def test_real_replies(name):
    path = SHARED / name / "interests.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        assert parse_interests(record["response"]) == list(json.loads(record["response"]).values())
        assert 2 <= len(parse_interests(record["response"])) <= 7


def test_real_replies_count():
    paths = [SHARED / name / "interests.jsonl" for name in ("amazon-beauty", "amazon-office", "amazon-prime-pantry")]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"not all of {paths}")
    texts = (json.loads(line)["response"] for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    assert sum(len(parse_interests(text)) for text in texts) == 5848


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "1. They bought staplers."}]}


def completion(content, finish_reason="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    ("body", "interests"),
    [
        (completion('{"1": "Nail art", "2": "Hair care"}'), AB),
        (
            completion([{"type": "text", "text": '{"1": "Nail art", '}, {"type": "text", "text": '"2": "Hair care"}'}]),
            AB,
        ),
        (completion('{"1": "Nail art", "2": "Hai', "length"), ["Nail art"]),
        (  # a model that thinks aloud
            completion([THINKING, {"type": "text", "text": '{"1": "Nail art", "2": "Hair care"}'}]),
            AB,
        ),
        (
            completion([{"type": "reasoning", "text": "1. Cars"}, {"type": "output_text", "text": "1. Nail art"}]),
            ["Nail art"],
        ),
        (completion([{"1": "Nail art"}, {"2": "Hair care"}]), AB),
    ],
)
def test_completions(body, interests):
    assert completion_interests(body, 20) == interests


@pytest.mark.parametrize(
    ("body", "reason", "final"),
    [
        (completion(None, refusal="I must not"), "I must not", True),
        (completion('{"1": "Nail art"}', refusal="I must not"), "I must not", True),
        (completion("", "content_filter"), "content filter", True),
        (completion(None), "no content", True),
        ({"choices": []}, "no content", True),
        ({}, "no content", True),
        (completion('{"1": "Nai', "length"), "raise llm_max_tokens", True),
        (completion(None, "length"), "raise llm_max_tokens", True),
        (completion("hm"), "No interests found", False),
        (completion(""), "No interests found", False),
        (completion([THINKING]), "No interests found", False),
    ],
)
def test_completions_without_interests(body, reason, final):
    with pytest.raises(ReplyError, match=reason) as error:
        completion_interests(body, 20)
    assert error.value.final == final


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, {"prompt_tokens": 7, "completion_tokens": 3}),
        ({"prompt_tokens": 7, "completion_tokens": None}, {"prompt_tokens": 7, "completion_tokens": 0}),
        (None, None),
    ],
)
def test_tokens_are_counted_as_the_endpoint_says(usage, counted):
    assert completion_usage({"usage": usage}) == counted


def test_reply_from_text():
    good, bad = (reply_from_text("u", "abc", text, "file", 1) for text in ('{"1": "a", "2": "b"}', "hm"))
    assert (good.interests, good.status, good.error) == (("a",), "ok", None)
    assert (bad.interests, bad.status, bad.response) == ((), "failed", "hm")


def test_the_form_sent_back_and_a_call_named_after_it_are_no_interests():
    called = json.dumps({"name": "interests", "arguments": json.dumps({"1": "Nail art", "2": "Hair care"})})
    assert parse_interests(called) == ["Nail art", "Hair care"]
    assert parse_interests('{"name": "answer", "parameters": {"interests": ["Nail art"]}}') == ["Nail art"]
    for form in ({"type": "object", "properties": {"1": {"type": "string"}}}, {"$schema": "x", "title": "interests"}):
        with pytest.raises(ReplyError):
            parse_interests(json.dumps(form))


def test_half_an_emoji_in_a_file_of_replies_is_no_trouble_later(tmp_path):
    line = json.dumps({"user_id": "u", "response": '{"1": "Nail art"} \ud83d'})
    (tmp_path / "replies.jsonl").write_text(line + "\n")
    reply = fetch_file(None, tmp_path / "replies.jsonl")["u"]
    assert (reply.interests, reply.response.encode()) == (("Nail art",), b'{"1": "Nail art"} ?')


def test_the_end_of_input_is_no(monkeypatch):
    def ended(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert ask_terminal("Pay?") is False

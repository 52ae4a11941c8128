"""An LLM's knowledge of items: replies, command, placebo, text and the graph of what is bought next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.core.errors import ConfigError, DataError, InterestSourceError
from recbole_eimf.data import history_mask
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.experiment import assembly
from recbole_eimf.semantic import journal, knowledge
from recbole_eimf.semantic.knowledge import (
    Exchange,
    KnowledgeStage,
    item_texts,
    next_graph,
    read_knowledge,
    shuffled_knowledge,
)
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.item_reply import ItemKnowledge, item_prompt, parse_item
from recbole_eimf.semantic.llm.prompt import MAX_TITLE_CHARACTERS
from recbole_eimf.semantic.llm.reply import ReplyError
from recbole_eimf.semantic.side_load import exchange_of
from tests.conftest import REPOSITORY, TITLES
from tests.semantic.llm_server import Answer, LLMServer

GOOD = '{"kind": "pen", "profile": "for letters", "next": ["ink", "paper"]}'
READ = ["pen. for letters", "ink", "paper"]


# ---------------------------------------------------------------------- replies
@pytest.mark.parametrize(
    "response",
    [
        GOOD,
        f"<think>drafts</think>Sure!\n```json\n{GOOD}\n```",
        f"[{GOOD}]",
        '{"Kind": "pen", "use": "for letters", "bought_next": [{"name": "ink"}, {"name": "paper"}]}',
        '{"item_id": "i1", "item": {"kind": "pen", "profile": "for letters."}, "next": ["ink", "N/A", "Ink", "paper"]}',
        '{"kind": "pen", "profile": "for letters", "next": ["ink", "paper", "env',
        f"\n {json.dumps(GOOD)}\n",
        '{"kind": "pen", "profile": "for letters", "use": "for letters", "next": ["ink", "paper"]}',
        '{"kind": "pen", "profile": "for letters", "next": {"first": "ink", "second": ["paper"]}}',
        *(
            f'{{"kind": "pen", "profile": "for letters", "{key}": ["ink", "paper"]}}'
            for key in ("Follow-ups", "then", "bought after", "also_bought", "complements", "bought together")
        ),
        # a list that came as one text, or with numbers, or in another list
        *(
            json.dumps({"kind": "pen", "profile": "for letters", "next": said})
            for said in ("ink, paper", "ink; paper", "1. ink\n2. paper", ["1. ink", "2) paper"], [["ink"], "paper"])
        ),
        # an object for each thing that is bought next, with more in it than its name
        '{"kind": "pen", "profile": "for letters", "next": [{"rank": "1", "product": "ink", "reason": "it runs out"}, '
        '{"why": "to write on", "product": "paper"}]}',
        '{"kind": "pen", "profile": "for letters", "next": {"1": {"why": "it runs out", "name": "ink"}, "2": "paper"}}',
        # what is about the answer
        '{"reasoning": "I was asked about a pen.", "kind": "pen", "profile": "for letters", "next": ["ink", "paper"], '
        '"confidence": "high"}',
        # what a tool is called with
        f'{{"name": "describe_item", "arguments": {GOOD}}}',
        json.dumps({"name": "describe_item", "arguments": GOOD}),
        f'{{"name": "describe_item", "arguments": [{GOOD}]}}',
        # an answer in several objects
        '[{"kind": "pen"}, {"profile": "for letters"}, {"next": ["ink", "paper"]}]',
        '{"kind": "pen", "profile": "for letters"}\n{"next": ["ink", "paper"]}',
        '```json\n{"kind": "pen", "profile": "for letters"}\n```\nand then\n```json\n{"next": ["ink", "paper"]}\n```',
        f'Draft: {{"kind": "writing tool"}}\n{GOOD}',
        # no JSON at all
        "Kind: pen\nProfile: for letters\nNext: ink, paper",
        "Here it is.\n\n- **Kind:** pen\n- **Profile:** for letters\n- **Bought next:**\n  1. ink\n  2. paper\n",
    ],
)
def test_what_is_plainly_there_is_read(response):
    assert parse_item(response) == READ


def test_a_part_of_the_profile_is_not_what_is_bought_next():
    """Its name may hold the letters of one that is."""
    for key in ("authenticity", "strengthens", "also known as", "aftercare"):
        found = parse_item(f'{{"kind": "pen", "{key}": "for letters", "next": ["ink", "paper"]}}')
        assert found == ["pen. for letters", "ink", "paper"], key


def test_a_line_that_is_cut_off_is_left_out_and_depth_does_no_harm():
    lines = "Kind: pen\nProfile: for letters\nNext:\n- ink\n- paper\n- enve"
    assert parse_item(lines, truncated=True) == READ
    assert parse_item('{"kind": "pen", "next": ' + "[" * 500 + '"ink"' + "]" * 500 + "}") == ["pen"]


def test_as_many_texts_are_read_as_are_wanted():
    assert parse_item(GOOD, 1) == READ[:2]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ('{"kind": "N/A", "profile": "unknown", "next": []}', "placeholder"),
        ('{"kind": "N/A", "profile": "I\'m sorry, but I cannot help with that.", "next": []}', "refusal"),
        ('{"error": {"message": "slow down", "code": 429}}', "error object"),
        ('{"kind": "pen", "profile": "I\'m sorry, but I cannot help with that.", "next": ["ink"]}', "refusal"),
        ("It is a pen.", "no interests"),
        ('{"name": "describe_item", "arguments": "pen"}', "no interests"),
        ("I'm sorry, but I cannot help with that.\nUse: a search engine", "refusal"),
        ('{"type": "object", "properties": {"kind": {"type": "string"}, "next": {"type": "array"}}}', "no interests"),
        (f"\n<think>A pen. Perhaps {GOOD}? Then", "no interests"),
        ("", "no interests"),
    ],
)
def test_what_is_no_knowledge_is_a_failure_of_its_kind(response, kind):
    with pytest.raises(ReplyError) as error:
        parse_item(response)
    assert error.value.kind == kind
    assert not error.value.final
    with pytest.raises(ReplyError) as error:
        parse_item(response, truncated=True)
    assert error.value.final


def test_a_prompt_names_title_and_id_on_one_line_and_braces_stay():
    assert item_prompt("B1", "a\n{item} b", "{item}?").prompt == "[a {item} b (B1)]?"
    assert item_prompt("B1", "", "{item}?").prompt == "[untitled (B1)]?"
    assert item_prompt("B1", "x" * 999, "{item}?").prompt == f"[{'x' * MAX_TITLE_CHARACTERS} (B1)]?"


# ---------------------------------------------------------------------- files
def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_file_holds_raw_replies_or_their_keys(tmp_path):
    told = {"item_id": "b", "prompt_sha256": "a" * 64, "kind": "pen", "profile": "for letters"}
    told["next"] = ["ink", "paper"]
    path = write(tmp_path / "x.jsonl", {"item_id": "a", "response": GOOD}, told, {"item_id": "c", "response": "sorry"})
    found = read_knowledge(path)
    assert found["a"].interests == found["b"].interests == tuple(READ)
    assert found["c"].status == "failed"


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"response": GOOD}], "line 1: item_id is None"),
        ([{"item_id": "a", "response": GOOD}, {"item_id": 7, "response": GOOD}], "line 2: item_id is 7"),
        ([{"item_id": "", "response": GOOD}], "line 1: item_id is ''"),
        ([{"item_id": "a", "response": GOOD}, {"item_id": "a", "response": "{}"}], "line 2: item 'a' has another"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, records, said):
    with pytest.raises(DataError, match=said):
        read_knowledge(write(tmp_path / "x.jsonl", *records))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=f"knowledge_file={tmp_path / 'x.jsonl'}: no such file"):
        read_knowledge(tmp_path / "x.jsonl")


def stage(titles, **keys):
    return KnowledgeStage(titles, SemanticSettings(**keys), "shop")


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({}, ConfigError, "knowledge_source=none"),
        ({"knowledge_source": "file"}, ConfigError, "knowledge_file is not set"),
        ({"knowledge_source": "shuffled", "knowledge_file": "/no/such"}, DataError, "knowledge_file=/no/such"),
        ({"knowledge_source": "batch"}, ConfigError, "batch_file is not set"),
        (
            {"knowledge_source": "shuffled", "shuffled_knowledge": "openai", "knowledge_file": "x"},
            ConfigError,
            "knowledge_file=x: shuffled_knowledge=openai does not read it. Add --shuffled_knowledge=file",
        ),
    ],
)
def test_what_is_missing_is_said_before_any_work(keys, error, said):
    with pytest.raises(error, match=said):
        stage({"a": "Pen"}, **keys).run()


def test_a_file_that_a_row_does_not_read_may_be_shared_with_rows_that_do(make_config, caplog):
    assembly.datasets(make_config("EIMF", knowledge_file="x"))
    assert "knowledge_file=x is not read: knowledge_source=none" in caplog.text


def test_nothing_is_paid_for_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    paid = []
    monkeypatch.setattr(client, "fetch_openai", lambda *given, **keys: paid.append(given) or {})
    asking = stage({"a": "Pen"}, knowledge_source="openai", semantic_cache=str(tmp_path))
    with pytest.raises(InterestSourceError, match="would make paid calls: 1 call"):
        asking.run()
    assert not paid
    with pytest.raises(InterestSourceError, match="not one of 0 replies says"):
        asking.run(agreed=True)
    assert len(paid) == 1


def counted(monkeypatch, module, name):
    """A list that grows with every call of a function of a module."""
    calls, was = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given, **keys: calls.append(given) or was(*given, **keys))
    return calls


def test_a_finished_journal_is_read_once_and_nothing_is_asked(tmp_path, monkeypatch, caplog):
    """Of 60,000 items each further reading would be a minute of every training start."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    titles = {f"i{n}": f"Pen {n}" for n in range(9)}
    asking = stage(titles, knowledge_source="openai", semantic_cache=str(tmp_path))
    made = {"model": asking.llm_settings().model, "usage": None, "temperature": 99.0}
    sorry = {"status": "failed", "response": "I'm sorry, but I cannot help with that."}
    write(asking.journal, *(
        {"user_id": request.user_id, "prompt_sha256": request.sha256, **made}
        | (sorry if request.user_id == "i3" else {"status": "ok", "response": GOOD})
        for request in asking.requests()
    ))  # fmt: skip
    before = asking.journal.read_bytes()
    prompts = counted(monkeypatch, knowledge, "item_prompt")
    parsed = counted(monkeypatch, knowledge, "parse_item")
    read, paid = counted(monkeypatch, journal, "read_jsonl"), counted(monkeypatch, client, "run_in_thread")
    found = stage(titles, knowledge_source="openai", semantic_cache=str(tmp_path)).run(again=False)
    assert (len(prompts), len(parsed), len(read), len(paid)) == (9, 9, 1, 0)
    assert sorted(found.items) == sorted(titles.keys() - {"i3"})
    assert found.report["failed_replies"] == {"refusal": 1}
    assert found.report["replies"] == 9
    assert asking.journal.read_bytes() == before
    assert "1 replies are of no use and are not asked for again; `python -m recbole_eimf knowledge`" in caplog.text
    assert "of 8 replies that are used again from it, 8 with llm_temperature=99.0" in caplog.text


def test_replies_of_another_data_set_are_refused_and_prompts_compared(tmp_path, caplog):
    path = write(tmp_path / "x.jsonl", {"item_id": "a", "response": GOOD, "prompt_sha256": "0" * 64},
                 {"item_id": "z", "response": GOOD}, {"item_id": "b", "response": "I'm sorry, I cannot."})  # fmt: skip
    keys = {"knowledge_source": "file", "knowledge_file": str(path)}
    report = stage({"a": "Pen", "b": "Ink"}, **keys).run().report
    assert report["items_known"] == report["replies_to_another_prompt"] == report["replies_of_other_items"] == 1
    assert report["failed_replies"] == {"refusal": 1}
    assert "1 of 1 replies answer another prompt than today's" in caplog.text
    with pytest.raises(InterestSourceError, match="another data set"):
        stage({"q": "Pen"}, **keys).run()


def test_a_report_counts_replies_and_what_they_say_and_as_much_is_read_as_is_asked_for(tmp_path, caplog):
    caplog.set_level("INFO")
    titles = {"a": "Pen", "b": "Ink", "c": "Glue", "d": "Tape", "e": "Clip"}
    today = {request.user_id: request.sha256 for request in stage(titles).requests()}
    records = [
        {"item_id": "a", "response": GOOD, "prompt_sha256": today["a"]},
        {"item_id": "b", "response": '{"kind": "ink"}', "prompt_sha256": "0" * 64},
        {"item_id": "c", "next": ["tape", "paper", "brush"]}, {"item_id": "e", "kind": "clip"},
        {"item_id": "d", "response": "I'm sorry, but I cannot help with that."},
        {"item_id": "y", "response": GOOD}, {"item_id": "z", "response": GOOD},
    ]  # fmt: skip
    path = write(tmp_path / "x.jsonl", *records)
    keys = {"knowledge_source": "file", "knowledge_file": str(path)}
    found = stage(titles, **keys).run()
    assert found.report == {
        "replies": 7, "items_with_text": 5, "items_known": 4, "items_with_profile": 3,
        "items_with_next": 2, "next_phrases": 5, "replies_of_other_items": 2, "failed_replies": {"refusal": 1},
        "replies_to_another_prompt": 1, "replies_unchecked": 2,
    }  # fmt: skip
    assert "4 of 5 (80%), 3 with a profile, 2 with what is bought next, source file" in caplog.text
    assert found.digests == {"a": today["a"], "b": "0" * 64, "c": "", "e": ""}
    assert (found.source, set(found.items)) == ("file", {"a", "b", "c", "e"})
    fewer = stage(titles, max_interests=1, **keys).run().items
    assert {item: known.next for item, known in fewer.items()} == {"a": ("ink",), "b": (), "c": ("tape",), "e": ()}


def test_the_placebo_moves_everything_within_its_tenth_of_popularity():
    items = {f"i{n:03}": ItemKnowledge(f"p{n}", ()) for n in range(100)}
    counts = {f"i{n:03}": 37 * n % 100 for n in range(100)}
    of_profile = {f"p{n}": 37 * n % 100 for n in range(100)}
    found = shuffled_knowledge(items, Exchange(counts, 1))
    assert {known.profile for known in found.values()} == {known.profile for known in items.values()}
    for item, known in found.items():
        assert known != items[item]
        assert counts[item] // 10 == of_profile[known.profile] // 10
    assert max(abs(counts[item] - of_profile[known.profile]) for item, known in found.items()) > 5, "tenths, not less"
    assert found != shuffled_knowledge(items, Exchange(counts, 2))


def test_the_placebo_under_one_time_for_all_moves_nothing_from_one_era_to_another():
    """Tenths are those of an era; an item that is alone in its own gets no words, for they would be the real ones."""
    items = {f"i{n:03}": ItemKnowledge(f"p{n}", ()) for n in range(101)}
    counts = {f"i{n:03}": 37 * n % 101 for n in range(101)}
    era = {f"i{n:03}": n % 2 for n in range(100)} | {"i100": 2}
    found = shuffled_knowledge(items, Exchange(counts, 1, era))
    assert "i100" not in found
    origin = {known.profile: item for item, known in items.items()}
    for one in (0, 1):
        there = sorted((item for item in era if era[item] == one), key=counts.__getitem__)
        tenth = {item: n // 5 for n, item in enumerate(there)}
        came = {item: origin[found[item].profile] for item in there}
        assert sorted(came.values()) == sorted(there)
        assert all(item != other and tenth[item] == tenth[other] for item, other in came.items())


def test_the_placebo_of_a_file_is_that_of_the_runs_seed_and_the_training_counts(tmp_path, caplog):
    names = [f"i{n:02}" for n in range(40)]
    records = [{"item_id": name, "kind": f"kind of {name}", "next": []} for name in names]
    keys = {"knowledge_file": str(write(tmp_path / "x.jsonl", *records)), "shuffled_knowledge": "file"}
    counts = {name: 7 * n % 40 for n, name in enumerate(names)}
    titles = dict.fromkeys(names, "Pen")
    real = stage(titles, knowledge_source="file", **keys).run(Exchange(counts, 5))
    assert not caplog.records, "nothing is known of the prompts"
    placebo = stage(titles, knowledge_source="shuffled", **keys).run(Exchange(counts, 5))
    assert placebo.items == shuffled_knowledge(real.items, Exchange(counts, 5))
    assert (placebo.source, placebo.report) == ("shuffled file", real.report)
    assert placebo.items not in (
        shuffled_knowledge(real.items, Exchange(counts, 0)),
        shuffled_knowledge(real.items, Exchange({}, 5)),
        real.items,
    )


def test_a_run_gives_the_placebo_its_counts_and_its_seed(make_config, monkeypatch):
    given, run = [], KnowledgeStage.run
    monkeypatch.setattr(KnowledgeStage, "run", lambda self, *one, **keys: given.append(one) or run(self, *one, **keys))
    config = make_config("NextKNN", knowledge_source="shuffled", seed=7)
    train = assembly.datasets(config)[1][0]
    assert given == [(exchange_of(config, train),)]
    assert (given[0][0].seed, given[0][0].era) == (7, {})


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_of_a_few_items_none_keeps_its_own_whatever_the_order_of_the_replies(count):
    items = {f"i{n}": ItemKnowledge(f"p{n}", ()) for n in range(count)}
    found = shuffled_knowledge(items, Exchange())
    assert sorted(found) == sorted(items)
    assert {known.profile for known in found.values()} == {known.profile for known in items.values()}
    assert all(found[item] != items[item] for item in items)
    assert shuffled_knowledge(dict(reversed(items.items())), Exchange()) == found


# ---------------------------------------------------------------------- what is made of them
@pytest.mark.parametrize("neighbours", [2, 5, 9])
def test_the_graph_is_the_nearest_items_of_each_phrase_added_up(neighbours):
    rng = np.random.default_rng(0)
    vectors, phrases, items = rng.normal(size=(6, 4)), rng.normal(size=(5, 4)), np.array([1, 2, 3, 5, 6, 7])
    said = [[], [0, 1], [], [2], [], [3, 4, 0], [1], []]
    expected = np.zeros((8, 8))
    mean = vectors.mean(0)
    for item, each in enumerate(said):
        for phrase in each:
            a = phrases[phrase] - mean
            cosine = [a @ (v - mean) / np.linalg.norm(a) / np.linalg.norm(v - mean) for v in vectors]
            for n in sorted(range(6), key=lambda n: -cosine[n])[:neighbours]:
                expected[item, items[n]] += max(cosine[n], 0)
        expected[item, item] = 0
    found = next_graph(said, phrases, items, vectors, 8, neighbours)
    assert found.toarray() == pytest.approx(expected, abs=1e-5)
    assert found.data.all(), "what is zero takes no memory"


def test_more_phrases_than_are_compared_at_once_add_up():
    rng = np.random.default_rng(0)
    vectors, phrases, items = rng.normal(size=(6, 4)), rng.normal(size=(2100, 4)), np.arange(1, 7)
    parts = []
    for begin, end in ((0, 2100), (0, 700), (700, 1400), (1400, 2100)):
        said = [[], list(range(0, end - begin, 2)), list(range(1, end - begin, 2)), [], [], [], []]
        parts.append(next_graph(said, phrases[begin:end], items, vectors, 7, 2).toarray())
    assert parts[0] == pytest.approx(sum(parts[1:]), rel=1e-4)
    assert parts[0][1:3].any(1).all()


def test_side_loaded_text_is_that_of_profiles_and_titles_stand_in(make_config, planted_knowledge):
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
    plain = assembly.datasets(make_config("TextKNN"))[1][0].side
    side = assembly.datasets(make_config("TextKNN", item_text_source="profile", **keys))[1][0].side
    last = assembly.datasets(make_config("TextKNN"))[1][0].field2token_id["item_id"]["i9"]
    assert side.report["knowledge"]["items_known"] == 9
    assert side.item_has_text.equal(plain.item_has_text)
    same = (side.item_text == plain.item_text).all(1)[1:]
    assert same.nonzero().squeeze().item() == last - 1, "only the item that nothing is known of reads its title"
    assert "knowledge" not in plain.report
    titles, known = {"i0": TITLES[0]}, stage({"i0": TITLES[0]}, **keys).run()
    assert item_texts(titles, known, "profile") == {"i0": f"kind 0. goes with {TITLES[1]}"}


# ---------------------------------------------------------------------- the command
@pytest.fixture
def arguments(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    return [
        "knowledge",
        "--dataset=planted",
        f"--data_path={planted}",
        f"--semantic_cache={tmp_path / 'cache'}",
        f"--output_dir={tmp_path / 'out'}",
        "--llm_price_in=1",
        "--llm_price_out=2",
    ]


def test_dry_run_asks_nobody_and_calls_are_paid_once(arguments, tmp_path, capsys, on_terminal):
    def answer(asked, n):
        return Answer(content="N/A" if f"[{TITLES[3]} (" in asked.prompt and n < 2 else GOOD)

    with LLMServer(answer) as server:
        asking = [*arguments, "--knowledge_source=openai", f"--llm_base_url={server.url}"]
        assert main([*asking, "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert f"A shop sells this item: [{TITLES[0]} (i0)]" in shown
        assert "10 calls (0 answered" in shown
        assert "$" in shown
        assert main(asking) == 2  # no terminal
        assert "--yes" in capsys.readouterr().err
        assert server.asked == []
        assert main([*asking, "--yes"]) == 3  # one item's reply held nothing, twice
        shown = capsys.readouterr().err
        assert "knowledge:" in shown, "what the bar counts"
        assert "interests:" not in shown
        assert len(server.asked) == 11
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert (report["items_known"], report["failed_replies"]) == (9, {"placeholder": 1})
        assert main([*asking, "--yes"]) == 0
        assert len(server.asked) == 12, "only what failed is asked again"
    lines = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert {tuple(line["next"]) for line in lines} == {("ink", "paper")}
    written = "".join(path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file())
    assert "sk-secret-of-the-test" not in written
    again = read_knowledge(tmp_path / "out" / "items.jsonl")  # its own columns are no part of what was said
    assert {item: reply.interests for item, reply in again.items()} == {
        line["item_id"]: (line["profile"], *line["next"]) for line in lines
    }
    keys = ["--knowledge_source=file", f"--knowledge_file={tmp_path / 'out' / 'items.jsonl'}"]
    assert main([*arguments[:-3], f"--output_dir={tmp_path / 'read'}", *keys]) == 0
    assert json.loads((tmp_path / "read" / "report.json").read_text())["replies_to_another_prompt"] == 0


@pytest.mark.parametrize("source", ["file", "shuffled"])
def test_what_is_read_is_not_written_over(arguments, planted_knowledge, tmp_path, capsys, source):
    """The replies of a file may stand nowhere else."""
    paid = tmp_path / "out" / "items.jsonl"
    paid.parent.mkdir()
    paid.write_bytes(planted_knowledge.read_bytes())
    keys = [f"--knowledge_source={source}", f"--knowledge_file={tmp_path}/out/../out/items.jsonl"]
    assert main([*arguments, *keys]) == 2
    assert "would be written over knowledge_file=" in " ".join(capsys.readouterr().err.split())
    assert paid.read_bytes() == planted_knowledge.read_bytes()


def test_a_placebo_is_written_beside_what_is_real(arguments, planted_knowledge, capsys):
    keys = ["--knowledge_source=shuffled", f"--knowledge_file={planted_knowledge}"]
    assert main([one for one in arguments if not one.startswith("--output_dir")] + keys) == 0
    assert Path("knowledge/planted-shuffled/items.jsonl").is_file()
    assert not Path("knowledge/planted").exists()


@pytest.mark.parametrize("word", ["n", "never", "0", "flase"])
def test_only_a_plain_yes_agrees_to_pay(arguments, capsys, word):
    with LLMServer() as server:
        asking = [*arguments, "--knowledge_source=openai", f"--llm_base_url={server.url}"]
        assert main([*asking, f"--yes={word}"]) == 2
    assert f"--yes={word}: True or False is needed" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize("command", ["knowledge", "interests"])
def test_a_command_that_ranks_nothing_says_nothing_about_ranking(
    arguments, planted_knowledge, caplog, monkeypatch, command
):
    said = "hardly anybody has an item twice"
    monkeypatch.setattr(history_mask, "decide", lambda config, train: said)
    config = EIMFConfig("Popularity", "planted", None, {"data_path": arguments[2].partition("=")[2]})
    LazySequenceDataset(config).build()
    assert said in caplog.text, "a run says it"
    caplog.clear()
    read = ["--knowledge_source=file", f"--knowledge_file={planted_knowledge}"]
    keys = read if command == "knowledge" else ["--interest_source=keywords", "--text_encoder=tfidf-svd"]
    assert main([command, *arguments[1:], *keys]) == 0
    assert said not in caplog.text


def test_a_placebo_that_was_written_stays_one_when_it_is_loaded(arguments, planted, planted_knowledge, tmp_path):
    read, source = planted_knowledge, "shuffled"
    for folder in ("out", "again"):  # and however often
        keys = [f"--knowledge_source={source}", f"--knowledge_file={read}", f"--output_dir={tmp_path / folder}"]
        assert main([one for one in arguments if not one.startswith("--output_dir")] + keys) == 0
        written, source = tmp_path / folder / "items.jsonl", "file"
        lines = [json.loads(line) for line in written.read_text().splitlines()]
        assert {line["source"] for line in lines} == {"shuffled file"}
        assert not any("prompt_sha256" in line for line in lines), "the prompts were about other items"
        assert json.loads((tmp_path / folder / "report.json").read_text())["source"] == "shuffled file"
        read = written
    keys = {"data_path": str(planted), "semantic_cache": str(tmp_path / "cache"), "text_encoder": "tfidf-svd"}
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "output_dir": str(tmp_path / "run")}
    found = recbole_eimf.run(
        "NextKNN", "planted", knowledge_source="file", knowledge_file=str(written), **keys, **quiet
    )  # fmt: skip
    assert found.name == "NextKNN placebo"
    assert found.side_load["knowledge"]["source"] == "shuffled file"
    placebo = stage({f"i{n}": title for n, title in enumerate(TITLES)}, knowledge_source="shuffled", **{
        "knowledge_file": str(written), "shuffled_knowledge": "file"})  # fmt: skip
    assert placebo.run().source == "shuffled file", "once is enough to say it"


def test_a_batch_is_written_and_its_answers_read(arguments, tmp_path, capsys):
    batch = [*arguments, "--knowledge_source=batch"]
    assert main(batch) == 0
    requests = [json.loads(line) for line in (tmp_path / "out" / "batch_requests.jsonl").read_text().splitlines()]
    assert len(requests) == 10
    body = {"choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}]}
    answers = [{"custom_id": each["custom_id"], "response": {"status_code": 200, "body": body}} for each in requests]
    path = write(tmp_path / "answers.jsonl", *answers[:8])
    capsys.readouterr()
    assert main([*batch, f"--batch_file={path}"]) == 3
    shown = capsys.readouterr().out
    left = tmp_path / "out" / "batch_left.jsonl"
    assert f"{left}: the requests without a reply of use" in shown
    assert "asks for the missing ones again" not in shown
    assert [json.loads(line)["custom_id"] for line in left.read_text().splitlines()] == [
        each["custom_id"] for each in requests[8:]
    ]
    write(path, *answers)
    assert main([*batch, f"--batch_file={path}"]) == 0
    assert not left.exists()
    assert "10 of 10 items are known, 20 phrases" in capsys.readouterr().out
    assert main([*batch, f"--batch_file={path}", "--max_interests=1"]) == 0
    assert "10 of 10 items are known, 10 phrases" in capsys.readouterr().out


def test_a_batch_about_items_asks_what_the_journal_does_not_answer(arguments, tmp_path, capsys):
    refusing = lambda asked, n: Answer(content="N/A" if "(i3)" in asked.prompt else GOOD)  # noqa: E731
    with LLMServer(refusing) as server:
        assert main([*arguments, "--knowledge_source=openai", f"--llm_base_url={server.url}", "--yes"]) == 3
    capsys.readouterr()
    batch = [*arguments, "--knowledge_source=batch"]
    assert main([*batch, "--dry-run"]) == 0
    assert not (tmp_path / "out" / "batch_requests.jsonl").exists()
    assert main(batch) == 0
    assert capsys.readouterr().out.count(": 1 calls (9 answered by the journal)") == 2
    (request,) = (tmp_path / "out" / "batch_requests.jsonl").read_text().splitlines()
    assert "(i3)" in request
    body = {"choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}]}
    answer = {"custom_id": json.loads(request)["custom_id"], "response": {"status_code": 200, "body": body}}
    assert main([*batch, f"--batch_file={write(tmp_path / 'answers.jsonl', answer)}"]) == 0
    assert "10 of 10 items are known" in capsys.readouterr().out


def test_the_real_replies_of_office_are_read_whole():
    path = REPOSITORY.parent / "shared" / "knowledge" / "amazon-office" / "items.jsonl.gz"
    if not path.is_file():
        pytest.skip("no ../shared/knowledge here")
    found = read_knowledge(path)
    assert len(found) == 2420
    assert all(reply.status == "ok" and len(reply.interests) > 2 for reply in found.values())

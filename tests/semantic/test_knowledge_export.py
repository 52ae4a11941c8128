"""``knowledge --export``: an LLM's words on items as data, and what is checked when they are loaded."""

from __future__ import annotations

import json

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.knowledge import KnowledgeStage
from tests.conftest import TITLES
from tests.semantic.llm_server import Answer, LLMServer
from tests.semantic.test_knowledge import GOOD


@pytest.fixture
def arguments(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    places = [f"--semantic_cache={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'out'}"]
    return [
        "knowledge",
        "--dataset=planted",
        f"--data_path={planted}",
        *places,
        "--llm_price_in=1",
        "--llm_price_out=2",
    ]


def exported(arguments, folder, *more):
    with LLMServer(lambda asked, n: Answer(content=GOOD)) as server:
        paid = [*arguments, "--knowledge_source=openai", f"--llm_base_url={server.url}", "--llm_model=qwen-x", "--yes"]
        assert main([*paid, f"--export={folder}", *more]) == 0
    return json.loads((folder / "meta.json").read_text())


def test_an_export_holds_what_others_need_and_loads(arguments, planted, tmp_path, capsys):
    folder = tmp_path / "export"
    meta = exported(arguments, folder, "--licence=CC BY 4.0")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "items.jsonl", "meta.json"]
    assert (meta["dataset"], meta["model"], meta["items"], meta["licence"]) == ("planted", "qwen-x", 10, "CC BY 4.0")
    assert "{item}" in meta["prompt"]
    assert meta["unchecked"] == 0
    card = (folder / "README.md").read_text()
    for part in ("qwen-x", meta["titles"], "CC BY 4.0", "{item}", "--knowledge_file=export", "10 of 10 items"):
        assert part in card
    assert "sk-secret" not in "".join(path.read_text() for path in folder.iterdir())
    capsys.readouterr()

    load = [*arguments[:-3], f"--output_dir={tmp_path / 'loaded'}", "--knowledge_source=file"]
    assert main([*load, f"--knowledge_file={folder}", f"--export={tmp_path / 'again'}"]) == 0
    report = json.loads((tmp_path / "loaded" / "report.json").read_text())
    assert (report["items_known"], report["replies_to_another_prompt"]) == (10, 0)
    again = json.loads((tmp_path / "again" / "meta.json").read_text())
    same = ("model", "prompt", "licence", "titles", "unchecked", "files")
    assert {key: again[key] for key in same} == {key: meta[key] for key in same} | {"files": again["files"]}
    assert again["source"] == "file"
    keys = {"data_path": str(planted), "state": "ERROR", "show_progress": False, "compare_with": [], "topk": [1, 5]}
    keys |= {"valid_metric": "NDCG@5", "text_encoder": "tfidf-svd", "semantic_cache": str(tmp_path / "cache")}
    found = recbole_eimf.run("NextKNN", "planted", None, **keys, knowledge_source="file", knowledge_file=str(folder))
    assert found.side_load["knowledge"]["items_known"] == 10


def test_replies_to_another_title_are_left_out_and_to_none_of_these_refused(arguments, planted, tmp_path, caplog):
    """Ids of two catalogues may be the same numbers."""
    folder = tmp_path / "export"
    exported(arguments, folder)
    titles = dict.fromkeys((f"i{n}" for n in range(10)), "")
    titles |= {f"i{n}": TITLES[n] for n in range(10)}
    settings = SemanticSettings(knowledge_source="file", knowledge_file=str(folder), semantic_cache=str(tmp_path))
    other = {**titles, "i3": "Another thing", "i11": "A new thing"}
    found = KnowledgeStage(other, settings, "other").run()
    assert sorted(found.items) == sorted(set(titles) - {"i3"})
    assert "1 of 10 replies about items of this catalogue are about another title" in caplog.text
    with pytest.raises(DataError, match="made from other titles, of planted: of 10 ids that are in both none has"):
        KnowledgeStage({item: f"{title} 2" for item, title in titles.items()}, settings, "other").run()
    fewer = {item: title for item, title in titles.items() if item != "i0"}
    assert len(KnowledgeStage(fewer, settings, "other").run().items) == 9, "a filter changes no title"
    assert len(KnowledgeStage(titles, settings, "other").run().items) == 10


def test_a_folder_that_is_no_export_or_has_changed_is_refused_before_any_work(arguments, tmp_path, capsys):
    folder = tmp_path / "export"
    meta = exported(arguments, folder)

    def said(path=folder):
        keys = ["--knowledge_source=file", f"--knowledge_file={path}", f"--output_dir={tmp_path / 'loaded'}"]
        assert main([*arguments[:-3], *keys]) == 2
        return " ".join(capsys.readouterr().err.split())

    capsys.readouterr()
    of_no_export = said(tmp_path / "out")
    assert "not an export of `python -m recbole_eimf knowledge --export`" in of_no_export
    assert f"Name the JSONL file of replies itself, {tmp_path}/out/items.jsonl" in of_no_export
    (folder / "meta.json").write_text(json.dumps({**meta, "kind": "users' interests"}))
    assert f"an export of users' interests, not of knowledge of items. Give it as --interest_file={folder}" in said()
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 2}))
    assert f"knowledge_file={folder}: meta.json has format 2" in said()
    (folder / "meta.json").write_text(json.dumps(meta))
    lines = (folder / "items.jsonl").read_text()
    (folder / "items.jsonl").write_text(lines.replace("ink", "oil"))
    assert "not the file that was exported" in said()
    (folder / "items.jsonl").unlink()
    assert "items.jsonl is missing" in said()
    (folder / "items.jsonl").write_text(lines)
    over = [*arguments[:-3], "--knowledge_source=file", f"--knowledge_file={folder}", f"--export={folder}"]
    assert main([*over, f"--output_dir={tmp_path / 'loaded'}"]) == 2
    assert "would be written over knowledge_file" in " ".join(capsys.readouterr().err.split())
    same = [*arguments, "--knowledge_source=openai", "--yes", f"--export={tmp_path / 'out'}"]
    (tmp_path / "out" / "items.jsonl").unlink()
    (tmp_path / "out" / "report.json").unlink()
    assert main(same) == 2
    assert "is output_dir, where the command writes its own files" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--knowledge_source=openai", "--licence=mine"]) == 2
    assert "--licence=mine: is for the replies that --export=DIR writes" in capsys.readouterr().err


def test_exports_of_two_kinds_do_not_take_each_others_folder(arguments, tmp_path, capsys):
    folder = tmp_path / "interests"
    words = [one for one in arguments if not one.startswith(("--llm_price", "--output_dir"))][1:]
    words += ["--text_encoder=tfidf-svd", "--exemplar_ratio=0.1", f"--output_dir={tmp_path / 'out2'}"]
    assert main(["interests", *words, "--interest_source=keywords", f"--export={folder}"]) == 0
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert main([*arguments, "--knowledge_source=openai", "--yes", f"--export={folder}"]) == 2
    assert "holds something else than an export of knowledge of items" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    known = tmp_path / "known"
    exported(arguments, known)
    capsys.readouterr()
    read = ["interests", *words, "--interest_source=file", f"--interest_file={known}"]
    assert main(read) == 2
    assert f"an export of knowledge of items, not of users' interests. Give it as --knowledge_file={known}" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_exported_placebo_stays_one(arguments, planted_knowledge, tmp_path):
    keys = ["--knowledge_source=shuffled", f"--knowledge_file={planted_knowledge}", f"--export={tmp_path / 'placebo'}"]
    assert main([*arguments, *keys]) == 0
    assert "**a placebo**" in (tmp_path / "placebo" / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "placebo" / "items.jsonl").read_text().splitlines()]
    assert all("prompt_sha256" not in line and line["title_sha256"] for line in lines)
    load = ["--knowledge_source=file", f"--knowledge_file={tmp_path / 'placebo'}"]
    assert main([*arguments[:-3], f"--output_dir={tmp_path / 'read'}", *load]) == 0
    assert json.loads((tmp_path / "read" / "report.json").read_text())["source"] == "shuffled file"

"""``explore`` from runs to a page, as a user types it, and the page in a real browser."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.evaluator.ranks import read_ranks
from recbole_eimf.experiment.interests import training_pipeline
from recbole_eimf.study.explore import page as page_module
from recbole_eimf.study.explore.page import page
from tests.browser import browser  # noqa: F401
from tests.semantic.llm_server import GOOD, Answer, LLMServer

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
SIZES = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 64, "epochs": 1}
QUIET = {"show_progress": False, "state": "ERROR", "compare_with": [], "topk": [1, 5], "valid_metric": "NDCG@5"}
TEXT = {"text_encoder": "tfidf-svd", "exemplar_ratio": 0.1}


@pytest.fixture(scope="module")
def runs(planted, tmp_path_factory):
    """Runs over ``planted``: ``replies`` (a file of them: one failed, one missing, one evil), ``backbone``,
    ``placebo`` (of keywords)."""
    folder = tmp_path_factory.mktemp("runs")
    keys = {**SIZES, **QUIET, "data_path": str(planted)}
    text = {**TEXT, "semantic_cache": str(folder / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made, _ = training_pipeline("planted", None, {**keys, **text})
        exemplars, cluster, _ = made.clusters
        replies = []
        for n, request in enumerate(made.requests(exemplars)[:-1]):
            said = {"1": "nail care", "2": "hair brush" if n else "zebra quantum"}
            said = {"1": EVIL, "2": "hair care"} if n == 2 else said
            response = "I cannot help with that." if n == 1 else json.dumps(said)
            digest = request.sha256 if n else ""
            replies.append({"user_id": request.user_id, "response": response, "prompt_sha256": digest})
        replies.append({"user_id": "stranger", "response": '{"1": "hats"}'})
        (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)) + "\n")
        rows = [f"{user},{exemplars[c]}" for user, c in cluster.items()]
        (folder / "assignment.csv.gz").write_bytes(
            gzip.compress("\n".join(["user_id,exemplar_user_id", *rows]).encode() + b"\n")
        )
        files = {"interest_file": str(folder / "replies.jsonl"), "assignment_file": str(folder / "assignment.csv.gz")}
        recbole_eimf.run("EIMF", "planted", None, interest_source="file", output_dir="replies", **files, **keys, **text)
        recbole_eimf.run("IBIM", "planted", None, output_dir="backbone", **keys)
        made_beside = {**keys, "compare_with": ["backbone", "Popularity"]}
        placebo = {"interest_source": "shuffled", "output_dir": "placebo"}
        recbole_eimf.run("EIMF", "planted", None, **placebo, **made_beside, **text)
    return folder, exemplars, cluster


@pytest.fixture(scope="module")
def explored(runs):
    """(document, page) of the run with replies, beside its backbone."""
    folder = runs[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["--run", "replies", "--against", "backbone", "--against", "placebo", "--out", "page.html"]
        assert main(["explore", *arguments]) == 0
    return json.loads((folder / "page.json").read_text()), (folder / "page.html").read_text()


def test_clusters_say_what_was_asked_and_answered(runs, explored):
    _, exemplars, cluster = runs
    document, _ = explored
    clusters = {one["exemplar"]: one for one in document["clusters"]}
    assert list(clusters) == [user for n, user in enumerate(exemplars) if n not in (1, len(exemplars) - 1)]
    assert sum(one["users"] for one in clusters.values()) == len(cluster)  # the stranded have moved
    evil = clusters[exemplars[2]]
    assert [found["text"] for found in evil["interests"]] == [EVIL, "hair care"]
    assert evil["reply"] == json.dumps({"1": EVIL, "2": "hair care"})
    assert evil["asked"].startswith("[")
    assert evil["asked"].count("(i") == len(evil["history"])
    assert clusters[exemplars[0]]["asked"] is None  # no digest: nobody knows what was asked
    assert {found["title"].split()[0] for found in evil["interests"][1]["nearest"][:3]} <= {"hair", "dry", "curly"}
    zebra = clusters[exemplars[0]]["interests"][1]
    assert zebra["far"]
    assert zebra["nearest"][0]["cosine"] < document["far"]["below"]
    for one in clusters.values():
        for found in one["interests"]:
            assert found["far"] == (found["nearest"][0]["cosine"] < document["far"]["below"])
            assert found["own"]["cosine"] <= found["nearest"][0]["cosine"]
    replies = document["replies"]
    assert [(one["exemplar"], one["failure"]) for one in replies["failed"]] == [(exemplars[1], "refusal")]
    assert replies["failed"][0]["reply"] == "I cannot help with that."
    assert replies["missing"] == [exemplars[-1]]
    assert replies["unused"] == [{"exemplar": "stranger", "in_training": False}]
    moved = sum(c in (1, len(exemplars) - 1) for c in cluster.values())
    assert replies["users_moved_to_nearest_exemplar"] == moved


def test_metrics_of_clusters_are_those_of_their_users(runs, explored):
    folder, exemplars, cluster = runs
    document, _ = explored
    result = json.loads((folder / "replies" / "result.json").read_text())
    mine, theirs = read_ranks(folder / "replies"), read_ranks(folder / "backbone")
    over_all = {}
    for kind in ("hit", "ndcg"):
        values = [one["metrics"][kind] for one in document["clusters"]]
        users = [one["test_users"] for one in document["clusters"]]
        over_all[kind] = np.average([value or 0 for value in values], weights=users)
        assert over_all[kind] == pytest.approx(result["test"][f"{kind}@5"], abs=1e-4)
    tokens = [f"u{n}" for n in range(120)]
    config = recbole_eimf.load(folder / "backbone", state="ERROR")[2][2]._dataset
    named = config.field2id_token["user_id"][mine.user].tolist()
    assert sorted(named) == sorted(tokens)
    unmoved = 0
    for one in document["clusters"]:
        own = {user for user, c in cluster.items() if exemplars[c] == one["exemplar"]}
        if one["users"] != len(own):  # users of a cluster without interests have moved here
            continue
        unmoved += 1
        rows = [row for row, user in enumerate(named) if user in own]
        hits = [mine.hits[row, :5].any() for row in rows]
        others = [theirs.hits[row, :5].any() for row in rows]
        assert one["metrics"]["hit"] == pytest.approx(np.mean(hits), abs=1e-6)
        assert one["against"][0]["hit"] == pytest.approx(np.mean(others), abs=1e-6)
        assert one["against"][0]["d_hit"] == pytest.approx(np.mean(hits) - np.mean(others), abs=1e-5)
    assert unmoved
    assert [other["name"] for other in document["against"]] == ["SASRec", "EIMF(SASRec) placebo"]
    difference = result["test"]["ndcg@5"] - json.loads((folder / "backbone/result.json").read_text())["test"]["ndcg@5"]
    assert document["against"][0]["difference"] == pytest.approx(difference, abs=1e-4)
    assert len(document["map"]["x"]) == 120
    assert [document["map"]["cluster"][place] for place in document["map"]["exemplar"]]


def test_the_page_is_one_file_that_fetches_nothing_and_what_others_wrote_is_text(explored):
    document, text = explored
    assert EVIL not in text
    assert 'alert("x")</script>' not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert document["honesty"]["said"].replace("'", "&#39;") in text


def test_a_page_says_what_has_no_llm_and_what_is_a_placebo(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs[0])
    assert main(["explore", "--run", "placebo", "--out", "p/placebo.html", "--map=pca", "--points", "40"]) == 0
    said = capsys.readouterr().out
    assert "NO LLM" in said
    assert "A placebo" in said
    assert "mean no more than a placebo" in said or "mean more than a placebo" in said
    text = Path("p/placebo.html").read_text()
    assert '<p class="banner strong" id="no-llm"><b>No LLM was used.</b>' in text
    assert "<b>A placebo.</b>" in text
    document = json.loads(Path("p/placebo.json").read_text())
    assert [Path(other["folder"]).name for other in document["against"]] == ["compared-backbone"]
    compared = json.loads(Path("placebo/result.json").read_text())["compared"][0]
    assert document["against"][0]["test"] == compared["test"]
    assert document["against"][0]["name"] == "SASRec"
    assert document["prompt"] is None
    assert {one["reply"] for one in document["clusters"]} == {None}
    assert len(document["map"]["x"]) == 40


@pytest.mark.parametrize("means_more", [True, False, None])
def test_the_page_says_what_the_sentences_are_worth(explored, means_more):
    honesty = {"said": None if means_more is None else f"verdict {means_more}", "means_more": means_more}
    text = page({**explored[0], "honesty": {**honesty, "why_not": "no key"}})
    shown = re.search(r'<p class="(banner[^"]*)" id="honesty">(.*?)</p>', text, re.DOTALL)
    assert (shown[1] == "banner strong") == (means_more is False)
    assert (f"verdict {means_more}" if means_more is not None else "was not measured: no key") in shown[2]


def test_a_paid_run_is_explored_and_exported_without_key_or_call(planted, tmp_path, monkeypatch, capsys):
    def answer(asked, n):
        return Answer(content="I cannot help with that." if "i1)" in asked.prompt else GOOD)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    keys = {**SIZES, **QUIET, **TEXT, "data_path": str(planted), "semantic_cache": str(tmp_path / "cache")}
    with LLMServer(answer) as server:
        keys |= {"interest_source": "openai", "llm_base_url": server.url, "yes": True, "output_dir": "paid"}
        recbole_eimf.run("EIMF", "planted", None, llm_check_first=0, **keys)
        calls = len(server.asked)
        monkeypatch.delenv("OPENAI_API_KEY")
        assert main(["explore", "--run", "paid", "--map", "pca"]) == 0
        assert main(["export", "--run", "paid", "--out", "model"]) == 0
        assert len(server.asked) == calls
    document = json.loads(Path("explore.json").read_text())
    failed = {one["exemplar"] for one in document["replies"]["failed"]}
    assert failed
    clusters = document["clusters"]
    assert {one["exemplar"] for one in clusters if not one["interests"]} == failed
    assert {one["reply"] for one in clusters} == {"I cannot help with that.", GOOD}
    assert sum(one["users"] for one in clusters) == 120
    assert document["interests"]["changed"] is None
    explained = json.loads(Path("model/config.json").read_text())["text"]["explain"]
    assert explained["better"] == document["honesty"]["better"] is not None


def test_gains_stand_under_gains_and_above_the_zero_line(explored):
    document = explored[0]
    found = page_module._compared(document, 0)
    shares = {row["number"]: row["share"] for side in ("gain_rows", "lose_rows") for row in found[side]}
    assert [row["share"] for row in found["gain_rows"]] == sorted((s for s in shares.values() if s > 0), reverse=True)
    assert [row["share"] for row in found["lose_rows"]] == sorted(s for s in shares.values() if s < 0)
    assert len(shares) == sum(one["against"][0]["share"] != 0 for one in document["clusters"])
    funnel = found["funnel"]
    assert len(funnel["points"]) == len(document["clusters"])
    for point in funnel["points"]:
        assert np.sign(funnel["zero"] - point["y"]) == np.sign(round(100 * point["d_ndcg"], 1))
        assert funnel["left"] <= point["x"] <= funnel["end"]
    assert {text for _, text in funnel["y_ticks"]} >= {"0"}


def test_a_page_of_very_many_clusters_holds_the_largest(explored, monkeypatch):
    document = explored[0]
    monkeypatch.setattr(page_module, "MOST_CLUSTERS", 3)
    text = page(document)
    held = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    numbers = [one["number"] for one in held["clusters"]]
    assert numbers == sorted(np.argsort([-one["users"] for one in document["clusters"]], kind="stable")[:3].tolist())
    assert f"The {len(document['clusters']) - 3} smallest clusters" in text
    for now, before in zip(held["map"]["cluster"], document["map"]["cluster"]):
        assert now == (numbers.index(before) if before in numbers else -1)


# ---------------------------------------------------------------------- what cannot be explored
def copied(run: Path, name: str, **changes) -> str:
    shutil.copytree(run, name, dirs_exist_ok=True)
    result = json.loads((run / "result.json").read_text())
    Path(name, "result.json").write_text(json.dumps({**result, **changes}))
    return name


def test_what_cannot_be_explored_is_named_with_the_remedy(runs, planted, capsys, tmp_path):
    folder = runs[0]

    def refused(*arguments: str) -> str:
        assert main(["explore", *arguments]) == 2
        return capsys.readouterr().err

    run = str(folder / "replies")
    assert "SASRec has no LLM part to show: it reads no text" in refused("--run", str(folder / "backbone"))
    text_only = copied(folder / "replies", "text", side_load={"items": 10})
    assert "it learned from item text, without interests" in refused("--run", text_only)
    of_items = copied(folder / "replies", "of_items", side_load={"items": 10, "knowledge": {"source": "file"}})
    said = refused("--run", of_items)
    assert "no LLM's words on users to show: it learned from those on items (`recommend --explain`" in said
    (Path(copied(folder / "replies", "bare")) / "test_ranks.safetensors").unlink()
    assert "test_ranks.safetensors: no such file" in refused("--run", "bare")
    assert "nothing: no such folder" in refused("--run", "nothing")
    Path("model").mkdir()
    Path("model/items.parquet").touch()
    assert "a model folder (of export)" in refused("--run", "model")
    Path("table/runs").mkdir(parents=True)
    assert "a table of several runs" in refused("--run", "table")
    Path("foreign").mkdir()
    Path("foreign/result.json").write_text('{"accuracy": 1}')
    assert "lacks model, dataset" in refused("--run", "foreign")
    Path("foreign/result.json").write_text("{")
    assert "not JSON" in refused("--run", "foreign")
    assert "--against" in refused("--run", run, "--against", run)
    twice = ("--against", str(folder / "backbone"), "--against", str(folder / "backbone"))
    assert "is given twice" in refused("--run", run, *twice)
    assert "--k=7: the runs kept the first 5 places" in refused("--run", run, "--k", "7")
    assert "--map=umap: allowed are tsne, pca" in refused("--run", run, "--map", "umap")
    assert "--points=0" in refused("--run", run, "--points", "0")
    assert "--out=page.pdf: an .html file" in refused("--run", run, "--out", "page.pdf")
    assert "--json=a.html: this is the page itself" in refused("--run", run, "--out", "a.html", "--json", "a.html")
    assert "--run" in refused("--out", "a.html")
    shutil.copytree(planted, "untitled")
    Path("untitled/planted/planted.item").unlink()
    assert "planted.item: no such file" in refused("--run", run, "--data_path", str(Path("untitled").absolute()))
    assert "interest_file=gone.jsonl: no such file" in refused("--run", run, "--interest_file", "gone.jsonl")
    own = copied(folder / "replies", "own", side_load={"source": "examples.first_words:first_words", "llm_used": False})
    assert "If you trust it, name it" in refused("--run", own)
    assert not Path("explore.html").exists()


def test_a_run_of_a_model_class_of_ones_own_is_opened_if_it_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("their_eimf.py").write_text("from recbole_eimf.model.eimf import EIMF\nclass Mine(EIMF):\n    pass\n")
    config = Path(copied(runs[0] / "replies", "own"), "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_import": "their_eimf:Mine"}))
    asked = ["explore", "--run", "own", "--no-honesty", "--map", "pca", "--out", "own.html"]
    assert main(asked) == 2
    assert "--model=their_eimf:Mine of `export`, `explore`" in " ".join(capsys.readouterr().err.split())
    assert main([*asked, "--model=their_eimf:Mine"]) == 0
    assert Path("own.html").is_file()


def test_a_run_over_a_backbone_of_ones_own_is_opened_if_it_is_named(runs, planted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "examples.last_and_mean:LastAndMean"
    keys = {**SIZES, **QUIET, **TEXT, "data_path": str(planted), "semantic_cache": str(runs[0] / "cache"), "epochs": 1}
    recbole_eimf.run("EIMF", "planted", None, backbone=name, output_dir="own", **keys)
    asked = ["explore", "--run", "own", "--map", "pca", "--out", "own.html"]
    assert main(asked) == 2
    assert f"--backbone={name} of `explore` and `agreement`" in " ".join(capsys.readouterr().err.split())
    assert main([*asked, f"--backbone={name}"]) == 0
    document = json.loads(Path("own.json").read_text())
    assert document["clusters"][0]["interests"]
    assert document["honesty"]["said"] is None
    assert f"encoder over '{name}'" in document["honesty"]["why_not"]


def test_replies_that_have_changed_since_are_told(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs[0])
    lines = Path("replies.jsonl").read_text().splitlines()
    Path("fewer.jsonl").write_text("\n".join(lines[:4]) + "\n")
    given = ["--interest_file", "fewer.jsonl", "--out", "fewer.html", "--map", "pca"]
    assert main(["explore", "--run", "replies", "--no-honesty", *given]) == 0
    said = capsys.readouterr().out
    assert f"{len(lines) - 2} exemplars then, 3 now" in said
    assert "was not measured: not asked for" in said
    assert "<code>--against OUT2</code>" in Path("fewer.html").read_text()


# ---------------------------------------------------------------------- in a browser
def test_the_page_in_a_browser(runs, explored, browser, tmp_path):  # noqa: F811
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    document, _ = explored
    shown = browser(1280, 900)
    shown.get((runs[0] / "page.html").as_uri())

    def found(selector):
        return shown.find_elements(By.CSS_SELECTOR, selector)

    def texts(selector):
        return shown.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )

    def until(condition):
        return WebDriverWait(shown, 20).until(lambda _: condition())

    until(lambda: found("#list li"))
    sizes = [one["users"] for one in document["clusters"]]
    assert [int(re.search(r"(\d+) user", line)[1]) for line in texts("#list small")] == sorted(sizes, reverse=True)
    assert len(texts("#cluster h3")) == 1
    painted = (
        "return [...document.getElementById('map').getContext('2d').getImageData(0, 0, {0}.width, {0}.height).data]"
    )
    painted = painted.format("document.getElementById('map')") + ".filter((v, i) => i % 4 === 3 && v > 0).length"
    assert shown.execute_script(painted) > 500

    search = found("#search")[0]
    search.send_keys("hair care alert")
    until(lambda: len(found("#list li")) == 1)
    assert texts("#count") == [f"1 of {len(sizes)} clusters"]
    search.send_keys(Keys.ENTER)  # to the list, by keyboard alone
    assert texts("#cluster h3") == [EVIL]
    assert EVIL in texts("#cluster .said b")
    assert texts("#cluster pre.reply") == [json.dumps({"1": EVIL, "2": "hair care"})]
    evil = next(one for one in document["clusters"] if one["interests"][0]["text"] == EVIL)
    assert texts("#cluster pre.prompt") == [document["prompt"]["before"] + evil["asked"] + document["prompt"]["after"]]
    assert "SASRec" in texts("#cluster table")[0]
    search.send_keys(" no such words")
    until(lambda: not found("#list li"))
    assert "nothing has all of these words" in texts("#count")[0]
    search.clear()
    search.send_keys(" ")
    until(lambda: len(found("#list li")) == len(sizes))

    Select(found("#sort")[0]).select_by_value("gain0")
    best = max((one for one in document["clusters"] if one["test_users"]), key=lambda one: one["against"][0]["share"])
    assert texts("#list li")[0].startswith(best["interests"][0]["text"])
    listbox = found("#list")[0]
    listbox.send_keys(Keys.HOME)
    first = texts("#list [aria-selected=true]")
    listbox.send_keys(Keys.ARROW_DOWN)
    assert texts("#list [aria-selected=true]") == texts("#list li")[1:2] != first
    listbox.send_keys(Keys.ENTER)
    assert shown.execute_script("return document.activeElement.id") == "cluster"
    Select(found("#colour")[0]).select_by_value("0")
    assert texts("#key li") == ["gains", "stays", "loses"]
    link = found(".pair a.choose")[0]
    link.click()
    assert texts("#cluster h3") == [link.text]

    for width in (1280, 390):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        shown.refresh()
        until(lambda: found("#list li"))
        assert shown.execute_script("return document.documentElement.scrollWidth") <= width
        shown.save_screenshot(str(tmp_path / f"{width}.png"))
    messages = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    # but for those of the browser's own pages: it opens on one
    asked = [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome")]
    assert {address.split(":")[0] for address in asked} <= {"file", "data", "chrome", "about"}
    assert [entry for entry in shown.get_log("browser") if entry["level"] == "SEVERE"] == []

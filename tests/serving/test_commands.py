"""From a run on ml-100k to recommendations, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.cli import recommend
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import write_json
from recbole_eimf.evaluator.ranks import read_ranks
from recbole_eimf.serving import batch
from recbole_eimf.serving.batch import Job, recommend_file
from recbole_eimf.serving.export import export, read_result
from recbole_eimf.serving.histories import Histories
from recbole_eimf.serving.recommender import Recommender

KEYS = {"text_encoder": "tfidf-svd", "show_progress": False, "state": "ERROR", "compare_with": ["Popularity"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of EIMF on ml-100k with text in its item vectors."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recbole_eimf.run(
            "EIMF",
            "ml-100k",
            None,
            epochs=1,
            item_text="add",
            score="cosine",
            mask_history=True,
            topk=[10, 20],
            valid_metric="NDCG@10",
            preference=-0.9,
            hidden_size=32,
            MAX_ITEM_LIST_LENGTH=20,
            train_batch_size=256,
            output_dir=str(folder / "out"),
            semantic_cache=str(folder / "cache"),
            **KEYS,
        )
        export(folder / "out", folder / "model")
    return folder


@pytest.fixture(scope="module")
def model(run):
    return Recommender.load(run / "model")


def test_lists_of_a_trained_run_have_the_metrics_of_its_result(run, model):
    """One target per user: where the last item stands in the served list is where the run's ranks say."""
    ranks = read_ranks(run / "out")
    users = model.users.tokens.take(ranks.user).to_pylist()
    rows = [model.users.histories[int(user)].as_py() for user in ranks.user]
    tokens = np.array(model.catalogue.tokens.to_pylist(), dtype=object)
    found = model.rank([tokens[row[:-1]].tolist() for row in rows], 20, users=users)
    at = found.rows == np.array([row[-1] for row in rows])[:, None]
    assert np.array_equal(np.where(at.any(1), at.argmax(1), -1), ranks.target_rank)
    result = json.loads((run / "out" / "result.json").read_text())
    assert at[:, :10].any(1).mean() == pytest.approx(result["test"]["hit@10"], abs=1e-4)


def test_a_floor_that_stands_beside_a_run_is_served_too(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    assert main(["recommend", "--run", "out/compared-Popularity", "--history", "1,2", "--k", "3"]) == 0
    assert "Popularity on ml-100k" in capsys.readouterr().out


def test_the_result_of_a_run_beside_another_is_its_part_of_that_ones(tmp_path):
    (tmp_path / "compared-Markov").mkdir()
    beside = {"model": "Markov", "config": {"output_dir": "where/it/was/compared-Markov"}}
    write_json(tmp_path / "result.json", {"model": "EIMF", "compared": [beside]})
    assert read_result(tmp_path / "compared-Markov") == beside
    assert read_result(tmp_path)["model"] == "EIMF"
    with pytest.raises(DataError, match=r"compared-Other: .*result.json holds no result of it"):
        read_result(tmp_path / "compared-Other")


def test_export_says_what_it_wrote_and_the_card_how_good_it_is(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    assert main(["export", "--run", "out", "--out", "once 2", "--text", "no", "--no-histories", "--index", "flat"]) == 0
    said = capsys.readouterr().out
    assert "EIMF(SASRec) on ml-100k, 1,682 items" in said
    assert "written: once 2" in said
    assert "recommend --model 'once 2' --history" in said  # a line to be copied
    names = {file.name for file in (run / "once 2").iterdir()}
    assert names == {"config.json", "README.md", "encoder.safetensors", "items.safetensors", "items.parquet"}
    card = (run / "model" / "README.md").read_text()
    result = json.loads((run / "out" / "result.json").read_text())
    for name, test in (("EIMF(SASRec)", result["test"]), ("Popularity", result["compared"][0]["test"])):
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {100 * test['ndcg@10']:.2f} |" in row
    assert "items of the history are no candidates" in card
    assert "no LLM had a part in them" in card
    assert main(["recommend", "--model", "once 2", "--user", "1"]) == 2
    assert "exported without histories; give --history" in capsys.readouterr().err


def test_one_user_readably_and_why(run, model, capsys, monkeypatch):
    monkeypatch.chdir(run)
    assert main(["recommend", "--model", "model", "--user", "196", "--k", "3", "--explain", "--out", "one.json"]) == 0
    said = capsys.readouterr().out
    frame = pd.DataFrame(json.loads((run / "one.json").read_text()))
    rows = model.users.history("196")
    for row in frame.to_dict("records"):
        assert row["title"] in said
        assert row["sentence"] in said
        assert model.catalogue.row_of[str(row["item"])] not in rows
        names = model.catalogue.names(rows)
        assert len(row["because"]) == 2
        assert set(row["because"]) <= set(names)
    assert "keywords, no LLM, of users like this one" in said
    assert "50 % is chance" in said
    assert main(["recommend", "--run", "out", "--history", "1,2,none", "--k", "2"]) == 0
    said = capsys.readouterr().out
    assert "none  (unknown)" in said
    assert "1 of them the model does not know" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "1"], "give one of --model MODEL"),
        (["--model", "model"], "give one of --user TOKEN"),
        (["--model", "model", "--user", "196", "--history", "1"], "give one of --user TOKEN"),
        (["--model", "model", "--user", "1961"], "user '1961': not among the 943 users"),
        (["--model", "out", "--history", "1"], "out: "),
        (["--model", "model", "--history", "1", "--k", "-1"], "--k=-1"),
        (["--model", "model", "--history", "1", "--k", "x"], "--k: invalid int value"),
        (["--model", "model", "--history", "1", "--ray"], "--ray: spreads a file"),
        (["--model", "model", "--history", "1", "--only", "nothing.txt"], "--only=nothing.txt: cannot be read"),
        (["--model", "model", "--history", "1", "--only", "empty.txt"], "--only=empty.txt: no item token in it"),
        (["--model", "model", "--history", "1", "--exclude-seen", "--include-seen"], "not allowed with"),
        (["--model", "model", "--history", "1", "--out", "x.xlsx"], "--out=x.xlsx: a .parquet, .csv or .json"),
        (["--model", "none", "--history", "1", "--out", "x.xlsx"], "--out=x.xlsx: a .parquet, .csv or .json"),
        (["--run", "model", "--history", "1"], "model: a model folder (of export), where a run's output_dir is needed"),
        (["--model", "model", "--histories", "h.csv"], "--out is missing"),
        (["--model", "model", "--histories", "h.csv", "--out", "r.parquet"], "h.csv: no such file"),
        (["--run", "none", "--history", "1"], "none: no such folder"),
    ],
)
def test_wrong_arguments_are_named(run, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(run)
    Path("empty.txt").touch()
    assert main(["recommend", *arguments]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------- files of histories
@pytest.fixture(scope="module")
def files(run, model):
    """The same histories as parquet lists and as CSV text; some are empty, one is of unknown items."""
    users = [*model.users.tokens.to_pylist()[1:101], "nobody", "élan, vital"]
    tokens = model.catalogue.tokens
    histories = [tokens.take(model.users.history(user)).to_pylist() for user in users[:100]] + [[], ["?", "!"]]
    parquet.write_table(pa.table({"user": users, "history": histories, "more": users}), run / "h.parquet")
    frame = pd.DataFrame({"user_id": users, "history": [",".join(history) for history in histories]})
    frame.to_csv(run / "h.csv", index=False)
    return users, histories


def test_a_file_of_users(run, model, files, capsys, monkeypatch):
    monkeypatch.chdir(run)
    users, histories = files
    expected = model.recommend(histories, 5, users=users)
    for name in ("h.parquet", "h.csv"):
        assert main(["recommend", "--model", "model", "--histories", name, "--k", "5", "--out", "r.parquet"]) == 0
        said = capsys.readouterr().out
        assert "102 users, 510 recommendations" in said
        assert "for want of a known item: 2 users" in said
        assert "does not know: 2." in said
        found = pd.read_parquet(run / "r.parquet")
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
        assert not (run / "r.parquet.parts").exists()


def test_a_stopped_batch_goes_on_and_ends_the_same(run, model, files, monkeypatch, tmp_path):
    users, histories = files
    job = Job(str(run / "model"), str(run / "h.csv"), str(tmp_path / "r.parquet"), k=4, piece=25)
    made = batch.make_pieces

    def stopped(job, numbers):
        for count, number in enumerate(made(job, numbers)):
            yield number
            if count == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_file(job, stopped, show_progress=False)
    assert not (tmp_path / "r.parquet").exists()
    kept = {file.name: file.stat().st_mtime_ns for file in job.parts.glob("*.parquet")}
    assert sorted(kept) == ["000000.parquet", "000001.parquet"]
    with pytest.raises(DataError, match="pieces of another command"):
        recommend_file(Job(job.model, job.histories, job.out, k=5, piece=25), show_progress=False)
    asked = []

    def noted(job, numbers):
        asked.extend(numbers)
        yield from made(job, numbers)

    answered = recommend_file(job, noted, show_progress=False)
    assert asked == [2, 3, 4]
    assert (answered.users, answered.recommendations, answered.empty_histories) == (102, 408, 2)
    expected = pd.concat(
        [model.recommend(histories[n : n + 25], 4, users=users[n : n + 25]) for n in range(0, 102, 25)]
    )
    found = pd.read_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False)


def test_over_ray_data(run, model, files, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # of a cluster that nobody named here
    from recbole_eimf.serving.on_ray import over_ray

    users, histories = files
    job = Job(str(run / "model"), str(run / "h.parquet"), str(tmp_path / "r.parquet"), k=3, piece=51)
    with over_ray(1) as spread:
        recommend_file(job, spread, show_progress=False)
    expected = pd.concat([model.recommend(histories[n : n + 51], 3, users=users[n : n + 51]) for n in (0, 51)])
    found = pd.read_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False)


def test_pieces_are_cut_alike_whatever_arrow_reads_at_a_time(run, files):
    users, histories = files
    for name in ("h.csv", "h.parquet"):
        source = Histories.open(run / name)
        assert len(source) == 102
        pieces = list(source.pieces(40))
        assert [len(piece[0]) for piece in pieces] == [40, 40, 22]
        assert sum((piece[0] for piece in pieces), []) == users
        assert sum((piece[1] for piece in pieces), []) == histories
        assert list(source.pieces(40, 1, 2)) == [pieces[1]]


def test_broken_files_of_histories(tmp_path):
    def opened(name, text):
        (tmp_path / name).write_text(text)
        return Histories.open(tmp_path / name)

    with pytest.raises(DataError, match=r"a.csv: no column 'history'.*It has user, item"):
        opened("a.csv", "user,item\n1,2\n")
    with pytest.raises(DataError, match=r"a.txt: histories are read from .csv or .parquet"):
        opened("a.txt", "x")
    with pytest.raises(DataError, match=r"a.csv.gz: histories are read from .csv or .parquet files. Unpack it first"):
        opened("a.csv.gz", "x")
    with pytest.raises(DataError, match=r"b.parquet: cannot be read"):
        opened("b.parquet", "no parquet")
    with pytest.raises(DataError, match=r"c.csv, row 2: no user"):
        list(opened("c.csv", "user,history\n1,2\n,3\n").pieces(10))
    with pytest.raises(DataError, match=r"d.csv: cannot be read"):
        list(opened("d.csv", "user,history\n1,2\n1,2,3\n").pieces(10))
    parquet.write_table(pa.table({"user": [1], "history": [2.5]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="column 'history' is double"):
        Histories.open(tmp_path / "e.parquet")
    (tmp_path / "f.csv").write_text("user,history\n1,2\n")
    with pytest.raises(ConfigError, match="a .parquet file is written"):
        recommend_file(Job("m", str(tmp_path / "f.csv"), str(tmp_path / "out.csv")))


def test_a_list_of_items_has_one_in_a_line_of_the_file(tmp_path):
    """An id may hold what Unicode calls a line break (U+2028, U+0085)."""
    path = tmp_path / "only.txt"
    path.write_bytes("\ufeffa\u2028b\r\n c\u0085d \n\n".encode())
    assert recommend._tokens("only", str(path)) == ("a\u2028b", "c\u0085d")

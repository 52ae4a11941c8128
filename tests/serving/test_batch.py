"""A file of users: whose pieces lie there, how many rows it has, and what is refused before anybody is answered."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving import batch, export
from recbole_eimf.serving.batch import Job, recommend_file
from recbole_eimf.serving.histories import Histories
from recbole_eimf.serving.recommender import Recommender

ROWS = "user,history\na,B1\nb,B2\nc,B5\n"


def answered(histories: str, out: str = "r.parquet", **options) -> pd.DataFrame:
    recommend_file(Job("model", histories, out, **{"k": 2, **options}), show_progress=False)
    return pd.read_parquet(out)


@pytest.fixture
def runs(toy, monkeypatch):
    """Runs ``A`` and ``B``, whose exports rank the other way round; what was exported so far."""
    made = []

    def exported(run, out, **_):
        made.append(str(run))
        return toy(out, (1, 2, 3, 4, 5) if str(run) == "A" else (5, 4, 3, 2, 1))

    monkeypatch.setattr(export, "export", exported)
    for name in ("A", "B"):
        Path(name).mkdir()
        Path(name, "result.json").write_text(f'{{"of": "{name}"}}')
    Path("h.csv").write_text(ROWS)
    return made


def recommend(*arguments: str) -> int:
    return main(["recommend", *arguments, "--histories", "h.csv", "--out", "r.parquet", "--k", "1"])


def stopped(*_):
    raise KeyboardInterrupt


# ---------------------------------------------------------------------- whose pieces they are
def test_a_run_is_not_answered_for_by_the_model_of_another(runs, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_join", stopped)
        assert recommend("--run", "A") == 130
    assert recommend("--run", "B") == 2
    assert "r.parquet.parts: holds pieces of another command (other histories, model or run" in capsys.readouterr().err
    assert recommend("--run", "A") == 0
    assert runs == ["A"]  # and goes on with what it had exported
    assert pd.read_parquet("r.parquet")["item"].tolist() == ["B5", "B5", "B4"]
    assert recommend("--run", "B") == 0
    assert pd.read_parquet("r.parquet")["item"].tolist() == ["B2", "B1", "B1"]


def test_a_run_that_was_trained_again_is_another(runs, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_join", stopped)
        assert recommend("--run", "A") == 130
    Path("A", "result.json").write_text('{"of": "A", "again": true}')
    assert recommend("--run", "A") == 2
    assert "pieces of another command" in capsys.readouterr().err


def test_a_stop_during_the_export_leaves_nothing_to_go_on_with(runs, monkeypatch):
    half = Path("r.parquet.parts", ".model.ab12cd3_.tmp")
    with monkeypatch.context() as patch:
        patch.setattr(export, "export", stopped)
        assert recommend("--run", "A") == 130
    half.mkdir()  # what a kill leaves of a model folder
    (half / "items.parquet").touch()
    assert recommend("--run", "B") == 0
    assert runs == ["B"]


def test_two_commands_do_not_export_into_one_folder(runs, capsys):
    from recbole_eimf.core.locks import folder_locked

    with folder_locked(Path("r.parquet.parts")):
        assert recommend("--run", "A") == 2
    assert "another command works in this folder" in capsys.readouterr().err
    assert runs == []


def test_nobody_begins_in_the_folder_of_pieces_while_it_is_deleted(toy, monkeypatch):
    toy("model")
    Path("h.csv").write_text(ROWS)
    real, refused = shutil.rmtree, []

    def deleted(folder, **options):
        monkeypatch.setattr(shutil, "rmtree", real)
        with pytest.raises(ConfigError, match="another command works in this folder"):
            answered("h.csv")
        refused.append(folder)
        real(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", deleted)
    assert answered("h.csv")["user"].nunique() == 3
    assert refused == [Path("r.parquet.parts")]
    assert not Path("r.parquet.parts").exists()


def test_no_run_is_exported_where_ray_is_missing(runs, monkeypatch, capsys):
    from recbole_eimf.core import parts

    real = parts._found
    monkeypatch.setattr(parts, "_found", lambda module: module != "ray" and real(module))
    assert recommend("--run", "A", "--ray") == 2
    assert "ray is needed here and not installed" in capsys.readouterr().err
    assert runs == []


def test_a_command_with_other_histories_options_or_another_model_is_another(toy, monkeypatch):
    toy("model")
    Path("h.csv").write_text(ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_join", stopped)
        with pytest.raises(KeyboardInterrupt):
            answered("h.csv")
    for other in ({"k": 3}, {"exclude_seen": False}, {"only": ("B1",)}, {"without": ("B1",)}, {"explain": True}):
        with pytest.raises(DataError, match="pieces of another command"):
            answered("h.csv", **other)
    Path("h.csv").write_text(ROWS + "d,B1\n")
    with pytest.raises(DataError, match="pieces of another command"):
        answered("h.csv")
    Path("h.csv").write_text(ROWS)
    shutil.rmtree("model")
    toy("model", (5, 4, 3, 2, 1))
    with pytest.raises(DataError, match="pieces of another command"):
        answered("h.csv")


def test_pieces_that_lie_there_are_neither_made_nor_counted_again(toy, monkeypatch):
    toy("model")
    Path("h.csv").write_text(ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_join", stopped)
        with pytest.raises(KeyboardInterrupt):
            answered("h.csv", piece=1)
    for missing in (0, 2):
        Path("r.parquet.parts", f"{missing:06d}.parquet").unlink()
    made, counts, real = [], [], batch._answers

    @contextlib.contextmanager
    def bar(initial, **_):
        counts.append(initial)
        yield SimpleNamespace(update=counts.append)

    monkeypatch.setattr(batch, "bar", bar)
    monkeypatch.setattr(batch, "_answers", lambda *given: made.extend(given[2]) or real(*given))
    assert list(dict.fromkeys(answered("h.csv", piece=1)["user"])) == ["a", "b", "c"]
    assert made == ["a", "c"]
    assert counts == [1, 1, 1]  # what lay there, and the two


# ---------------------------------------------------------------------- rows and lines
@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "user,history\n\na,B1\n\n\nb,B2\nc,B5\n\n",
        ROWS.replace("\n", "\r"),
        ROWS.replace("\n", "\r\n").rstrip("\r\n"),
        'user,history,note\na,B1,"two\nlines"\nb,B2,\nc,B5,"and\r\nmore\n\n"\n',
    ],
)
def test_rows_are_what_the_reader_reads_whatever_the_lines(toy, text):
    toy("model")
    Path("h.csv").write_bytes(text.encode())
    assert len(Histories.open("h.csv")) == 3
    for piece in (1, 2, 5):
        assert answered("h.csv", k=1, piece=piece)["user"].tolist() == ["a", "b", "c"]
    assert not Path("r.parquet.parts").exists()


def test_a_line_break_where_the_header_s_block_ends(toy):
    """The first look at a file reads a block of it, which may end inside a quoted text."""
    text = "user,history,note\n" + 'u,B1,"first line\nsecond line"\n' * 60_000
    for shift in range(3):
        Path("h.csv").write_text("u,B1,a".join(("user,history,note\n" + "x" * shift, "\n")) + text.partition("\n")[2])
        assert len(Histories.open("h.csv")) == 60_001


def test_a_row_may_be_as_long_as_it_is(tmp_path):
    """A shop's account for guests has all that was ever sold without one: more than Arrow reads at a time."""
    path = tmp_path / "users.csv"
    for line_end in ("\n", "\r\n", "\r"):
        rows = ["user,history", f'guests,"{",".join(["i1234567"] * 1_000_000)}"', "a,i1", 'b,"i1,i2"', ""]
        path.write_bytes(line_end.join(rows).encode())
        found = Histories.open(path)
        assert len(found) == 3
        assert [len(history) for _, histories in found.pieces(2) for history in histories] == [1_000_000, 1, 2]


def test_a_broken_line_is_found_before_anybody_is_answered(toy):
    toy("model")
    Path("h.csv").write_text(ROWS + "d,B1,more\n")
    with pytest.raises(DataError, match="h.csv: cannot be read"):
        answered("h.csv", piece=1)
    assert not Path("r.parquet.parts").exists()


WHOLE = 'user,history\na,"B1,B2"\nb,"B2,B3"\nc,"B3,B1"\n'


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_that_ends_inside_quotes_is_refused(tmp_path, ends):
    """Half of the last user's history would be answered as all of it."""
    file = tmp_path / "h.csv"
    for cut in range(len("user,history\n"), len(WHOLE)):
        text = WHOLE[:cut]
        file.write_bytes(text.replace("\n", ends).encode())
        if text.count('"') % 2 == 0:
            continue
        line = text.count("\n") + 1
        for look in (len, Histories.repeated, lambda found: list(found.pieces(2))):
            with pytest.raises(DataError, match=f"h.csv, line {line}: a quoted text begins there and does not end"):
                look(Histories.open(file))


def test_a_further_column_is_passed_over_whatever_its_encoding_and_its_quotes_are_not(tmp_path):
    file = tmp_path / "h.csv"
    file.write_bytes('user,history,note\na,"B1,B2","caf\xe9 ""x"""\n'.encode("latin-1"))
    assert list(Histories.open(file).pieces(2)) == [(["a"], [["B1", "B2"]])]
    file.write_bytes('user,history,note\na,"B1,B2",x\nb,B3,"caf\xe9'.encode("latin-1"))
    with pytest.raises(DataError, match="h.csv, line 3: a quoted text begins there"):
        len(Histories.open(file))


def test_a_quote_that_is_missing_in_the_middle_is_refused(tmp_path):
    (tmp_path / "h.csv").write_text(WHOLE.replace('B2"\nb', "B2\nb"))
    with pytest.raises(DataError, match="h.csv"):
        len(Histories.open(tmp_path / "h.csv"))


@pytest.mark.parametrize("history", ['"B1"', '""', '"a ""b"""', "B1", '5"', '"B1\n"', '"x,""y"""', ""])
@pytest.mark.parametrize("after", ["", "\n", "\n\n"])
def test_a_file_may_end_in_any_text_that_is_whole(tmp_path, history, after):
    (tmp_path / "h.csv").write_text(f"user,history\na,B1\nb,{history}{after}")
    assert len(Histories.open(tmp_path / "h.csv")) == 2


@pytest.mark.parametrize("name", ["h.csv", "h.parquet"])
def test_a_file_without_a_row_is_no_file_of_histories(runs, capsys, name):
    Path("h.csv").write_text("user,history\n")
    pd.DataFrame({"user": pd.Series(dtype=str), "history": pd.Series(dtype=str)}).to_parquet("h.parquet")
    assert main(["recommend", "--run", "A", "--histories", name, "--out", "r.parquet"]) == 2
    assert f"--histories={name}: has a header and no row" in capsys.readouterr().err
    assert runs == []  # found before a run is exported
    assert not Path("r.parquet").exists()
    assert not Path("r.parquet.parts").exists()


def test_a_row_without_a_user_is_named_by_its_place_in_the_file(tmp_path, monkeypatch):
    (tmp_path / "h.csv").write_text("user,history\n" + "a,B1\n" * 4 + ",B1\n")
    for first in (0, 2):
        with pytest.raises(DataError, match="h.csv, row 5: no user"):
            list(Histories.open(tmp_path / "h.csv").pieces(2, first))
    read = pa.table({"user": ["a", "a", "a", None], "history": ["B1"] * 4}).to_batches(max_chunksize=3)
    monkeypatch.setattr(Histories, "_batches", lambda *_: iter(read))
    with pytest.raises(DataError, match="h.csv, row 4: no user"):
        list(Histories.open(tmp_path / "h.csv").pieces(4))
    with pytest.raises(DataError, match="h.csv, row 4: no user"):
        Histories.open(tmp_path / "h.csv").repeated()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_once_more_is_nobody_to_answer(runs, capsys, mark):
    Path("h.csv").write_text(ROWS + mark + ROWS, encoding="utf-8")
    assert recommend("--run", "A") == 2
    assert "h.csv, row 4: the header once more (user, history)" in capsys.readouterr().err
    assert runs == []  # found before a run is exported
    Path("h.csv").write_text(ROWS + "user,B1\n", encoding="utf-8")  # somebody's name
    assert recommend("--run", "A") == 0


@pytest.mark.parametrize("name", ["h.csv", "h.parquet"])
def test_users_in_several_rows_are_told_of_and_answered_row_by_row(toy, name):
    toy("model")
    table = pd.DataFrame({"user": list("abcbdab"), "history": ["B1"] * 7})
    table.to_csv("h.csv", index=False)
    table.to_parquet("h.parquet")
    said = []
    recommend_file(Job("model", name, "r.parquet", k=1, piece=2), show_progress=False, say=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"--histories={name}: 2 users stand in more than one row ('b' in rows 2 and 4)")
    assert pd.read_parquet("r.parquet")["user"].tolist() == list("abcbdab")
    assert "1 user stands" not in said[0]
    table[:4].to_csv("h.csv", index=False)
    assert ": 1 user stands in more than one row" in Histories.open("h.csv").repeated()
    table[:3].to_csv("h.csv", index=False)
    assert Histories.open("h.csv").repeated() is None


def test_everybody_a_model_knows_is_answered_from_its_own_file_of_users(toy):
    """Its histories are numbers of items, which would be read as ids: with ids that are numbers, those of others."""
    model = toy("model")
    assert len(Histories.open(model / "users.parquet")) == 2
    found = answered(str(model / "users.parquet"), k=3, exclude_seen=True, piece=1)
    known = Recommender.load(model)
    for user in ("u1", "nothing yet"):
        history = known.catalogue.tokens_of(known.users.history(user))
        alone = known.recommend([history], 3, users=[user], exclude_seen=True)
        assert found[found["user"] == user]["item"].tolist() == alone["item"].tolist()
    assert set(found["user"]) == {"u1", "nothing yet"}
    assert not {"B1", "B2"} & set(found[found["user"] == "u1"]["item"])
    shutil.copy(model / "users.parquet", "copy.parquet")
    with pytest.raises(DataError, match="copy.parquet: belongs to a model folder.*no items.parquet is beside it"):
        Histories.open("copy.parquet")


@pytest.mark.parametrize("history", ["B1 B2", "[B1, B2]"])
def test_histories_of_which_the_model_knows_no_item_are_told_of(toy, history):
    toy("model")
    pd.DataFrame({"user": ["a", "b"], "history": [history] * 2}).to_csv("h.csv", index=False)
    said = []
    recommend_file(Job("model", "h.csv", "r.parquet", k=1), show_progress=False, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("--histories=h.csv: the model knows none of the first ")
    assert f"the first is {history.split(',')[0]!r}" in said[0]
    assert "',' (--separator)" in said[0]
    pd.DataFrame({"user": ["a", "b"], "history": [history, "B1"]}).to_csv("h.csv", index=False)
    recommend_file(Job("model", "h.csv", "r.parquet", k=1), show_progress=False, say=said.append)
    assert len(said) == 1


def test_a_file_that_is_mended_needs_no_folder_removed(toy):
    toy("model")
    Path("h.csv").write_text("user,history\na,B1\n,B2\n")
    with pytest.raises(DataError, match="h.csv, row 2: no user. Every row below the header needs one"):
        answered("h.csv")
    assert not Path("r.parquet.parts").exists()
    Path("h.csv").write_text(ROWS)
    Path("r.parquet.parts").mkdir()
    Path("r.parquet.parts/command.json").write_text('{"identity": "of another command, which made nothing"}')
    assert set(answered("h.csv")["user"]) == set("abc")


def test_a_history_without_quotes_is_told_how_to_be_written(tmp_path):
    (tmp_path / "h.csv").write_text("user,history\na,B1,B2\n")
    with pytest.raises(DataError, match=r"h\.csv: cannot be read .*needs quotes around it .*or another character"):
        len(Histories.open(tmp_path / "h.csv"))


def test_a_gap_is_no_item_and_text_that_looks_like_a_gap_is_one(tmp_path):
    lists = pa.array([["B1", None, "B2"], None], pa.list_(pa.string()))
    parquet.write_table(pa.table({"user": ["a", "b"], "history": lists}), tmp_path / "h.parquet")
    assert list(Histories.open(tmp_path / "h.parquet").pieces(5)) == [(["a", "b"], [["B1", "B2"], []])]
    (tmp_path / "h.csv").write_text('user,history\nNA,"null, B1"\nNULL,nan\n')
    assert list(Histories.open(tmp_path / "h.csv").pieces(5)) == [(["NA", "NULL"], [["null", "B1"], ["nan"]])]


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    "options", [{"k": 1}, {"exclude_seen": True}, {"exclude_seen": False}, {"only": ("B2", "B5")}, {"without": ("B5",)}]
)
def test_a_file_is_answered_as_its_users_are(toy, options, explain):
    model = Recommender.load(toy("model"))
    Path("h.csv").write_text(ROWS)
    options = {"k": 3, "exclude_seen": False, **options}
    found = answered("h.csv", piece=2, explain=explain, **options)
    expected = model.recommend([["B1"], ["B2"], ["B5"]], users=["a", "b", "c"], **options)
    told = ["user", "rank", "item"]
    assert found[told].values.tolist() == expected[told].values.tolist()


# ---------------------------------------------------------------------- what is written
def test_the_histories_are_not_overwritten(toy, capsys):
    toy("model")
    frame = pd.DataFrame({"user": ["a"], "history": [["B1"]]})
    frame.to_parquet("h.parquet")
    os.link("h.parquet", "same.parquet")
    before = Path("h.parquet").read_bytes()
    for out in ("h.parquet", "./h.parquet", "same.parquet"):
        assert main(["recommend", "--model", "model", "--histories", "h.parquet", "--out", out]) == 2
        assert f"--out={out}: is the file of --histories" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="is the file of --histories"):
            answered("h.parquet", out)
    assert Path("h.parquet").read_bytes() == before


@pytest.mark.parametrize("asked", [["--histories", "h.csv"], ["--history", "B1"]])
def test_a_folder_is_no_file_to_write(toy, capsys, asked):
    Path("h.csv").write_text(ROWS)
    Path("r.parquet").mkdir()
    assert main(["recommend", "--model", "none", *asked, "--out", "r.parquet"]) == 2
    assert "--out=r.parquet: is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["cold first", "cold last"])
def test_reasons_of_users_without_a_known_item(toy, order):
    toy("model")
    lines = ["a,zz", "b,B1"] if order == "cold first" else ["b,B1", "a,zz"]
    Path("h.csv").write_text("\n".join(["user,history", *lines]))
    found = answered("h.csv", explain=True, piece=1).set_index("user")
    assert [list(names) for names in found.loc["a", "because"]] == [[], []]
    assert parquet.read_schema("r.parquet").field("interest").type == "int64"
    assert set(found.loc["b", "item"]) == {"B5", "B4"}


def test_pieces_of_an_earlier_version_without_kinds_are_joined(toy, monkeypatch):
    toy("model")
    Path("h.csv").write_text("user,history\na,zz\nb,B1\n")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "_join", stopped)
        with pytest.raises(KeyboardInterrupt):
            answered("h.csv", explain=True, piece=1)
    first = Path("r.parquet.parts", "000000.parquet")
    piece = parquet.read_table(first)
    at = piece.column_names.index("interest")
    parquet.write_table(piece.set_column(at, "interest", pa.nulls(len(piece))), first)
    assert parquet.read_schema(first).field("interest").type == "null"
    assert answered("h.csv", explain=True, piece=1)["user"].tolist() == ["a", "a", "b", "b"]
    assert parquet.read_schema("r.parquet").field("interest").type == "int64"


def test_the_reasons_of_a_model_of_interests_have_the_kinds_that_are_written(exported, tmp_path, monkeypatch):
    _, folder, model = exported("IBIM")
    (tmp_path / "h.csv").write_text("user,history\na,i1\nb,zz\n")
    job = Job(str(folder), str(tmp_path / "h.csv"), str(tmp_path / "r.parquet"), k=3, explain=True)
    recommend_file(job, show_progress=False)
    expected = model.recommend([["i1"], ["zz"]], 3, users=["a", "b"], explain=True)
    found = pd.read_parquet(tmp_path / "r.parquet")
    assert list(found) == list(expected)
    assert found["score"].dtype == expected["score"].dtype
    assert found["interest"].dropna().tolist() == expected["interest"].dropna().tolist()
    assert [list(names) for names in found["because"]] == expected["because"].tolist()


# ---------------------------------------------------------------------- candidates, and values that are none
def test_a_byte_order_mark_is_no_part_of_an_item(toy, capsys):
    toy("model")
    Path("banned.txt").write_text("\ufeffB5\nB9\nB8\n", encoding="utf-8")
    Path("h.csv").write_text(ROWS)
    said = "--without: the model does not know 2 of the 3 items, which are ignored; the first is 'B9'"
    assert main(["recommend", "--model", "model", "--history", "B1", "--without", "banned.txt", "--out", "r.csv"]) == 0
    assert said in capsys.readouterr().out
    assert "B5" not in pd.read_csv("r.csv")["item"].tolist()
    assert recommend("--model", "model", "--without", "banned.txt") == 0
    assert said in capsys.readouterr().out
    assert "B5" not in pd.read_parquet("r.parquet")["item"].tolist()
    assert recommend("--model", "model") == 0
    assert "does not know 2 of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "--model", "model", "--histories", "", "--history", "B1"],
        ["recommend", "--model", "model", "--histories=", "--history", "B1"],
        ["recommend", "--model", "", "--run", "A", "--history", "B1"],
        ["recommend", "--model", "model", "--user", "u1", "--out", ""],
        ["export", "--run", "", "--out", "model"],
        ["add", "--model", "model", "--items", "", "--out", "model"],
        ["serve", ""],
        ["interests", "--dataset=ml-100k", "--export="],
        ["interests", "--dataset=ml-100k", "--export", ""],
    ],
)
def test_an_empty_value_is_no_value(toy, capsys, arguments):
    toy("model")
    assert main(arguments) == 2
    assert "=: no value (a variable of the shell that is not set?)" in capsys.readouterr().err


def test_no_rows_have_no_names(toy):
    catalogue = Recommender.load(toy("model")).catalogue
    assert catalogue.names([]) == catalogue.tokens_of([]) == []
    assert (catalogue.names([2, 1]), catalogue.tokens_of([2, 1])) == (["thing 2", "thing 1"], ["B2", "B1"])


def test_an_empty_history_is_answered_by_popularity(toy, capsys):
    toy("model")
    for asked in (["--history", ""], ["--user", "nothing yet"]):
        assert main(["recommend", "--model", "model", *asked, "--k", "1"]) == 0
        said = capsys.readouterr().out
        assert "these are the most popular items" in said
        assert "B5" in said


@pytest.mark.parametrize(("history", "user", "said"), [
    (pa.array([[1.0, 2.0]]), pa.array(["a"]), "column 'history' is list<.*double>"),
    (pa.array([[b"B1"]]), pa.array(["a"]), "column 'history' is list<.*binary>"),
    (pa.array([["B1"]]), pa.array([7.0]), "column 'user' is double; text or whole numbers"),
])  # fmt: skip
def test_tokens_of_a_file_are_text_or_whole_numbers(tmp_path, history, user, said):
    """A column with gaps becomes one of floats, whose '50.0' no model knows: everybody would get what is popular."""
    parquet.write_table(pa.table({"user": user, "history": history}), tmp_path / "h.parquet")
    with pytest.raises(DataError, match=said):
        Histories.open(tmp_path / "h.parquet")
    whole = pa.table({"user": pa.array([7]), "history": pa.array([[1, 2]])})
    parquet.write_table(whole, tmp_path / "h.parquet")
    assert list(Histories.open(tmp_path / "h.parquet").pieces(5)) == [(["7"], [["1", "2"]])]


def test_a_column_that_stands_twice_is_named(tmp_path):
    (tmp_path / "h.csv").write_text("user,history,history\n7,50,1\n")
    with pytest.raises(DataError, match="column 'history' is there twice"):
        Histories.open(tmp_path / "h.csv")

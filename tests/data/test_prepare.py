"""prepare csv: columns, every fault, every filter."""

import json
import random
import re

import numpy as np
import pytest

from recbole_eimf.cli.prepare import main
from recbole_eimf.core.dates import moment_of
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.prepare import write as prepare_module
from recbole_eimf.data.prepare.interaction_log import Filters, _one_per_pair, k_core, parse_time
from recbole_eimf.data.prepare.write import (
    CsvColumns,
    prepare_csv,
)
from tests.data.prepared import HEADER, inter, item, pairs, read, run_csv, write

# ---------------------------------------------------------------------------------------------------------------- csv


def test_csv_writes_headers_order_and_text(tmp_path):
    interactions = write(tmp_path / "i.csv.gz", "user_id,item_id,timestamp,rating\nu,b,20,4\nu,a,10,3.5\nv,a,5,1\n")
    items = write(tmp_path / "t.csv", 'item_id,title,brand,other\na,"A &amp; ""B""\n two",Acme,x\nz,unused,,\nb,,,\n')
    assert (
        main(["csv", "--interactions", str(interactions), "--items", str(items), "--name", "d", "--out", str(tmp_path)])
        == 0
    )
    assert (tmp_path / "d" / "d.inter").read_text() == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\torder:float\n"
        "u\ta\t3.5\t10\t1\nu\tb\t4\t20\t2\nv\ta\t1\t5\t1\n"
    )
    assert (tmp_path / "d" / "d.item").read_text() == (
        'item_id:token\ttitle:token_seq\tbrand:token_seq\na\tA & "B" two\tAcme\nb\t\t\n'
    )
    record = json.loads((tmp_path / "d" / "prepare.json").read_text())
    assert record["files"] == ["i.csv.gz", "t.csv"]
    assert record["counts"]["kept: interactions"] == 3
    assert record["counts"]["items read without interactions"] == 1
    assert record["counts"]["items without text"] == 1
    assert record["places"]["items without text"] == [f"{items}, line 5: 'b'"]
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["d.inter", "d.item", "prepare.json"]


def test_table_is_printed(tmp_path, capsys):
    path = write(tmp_path / "i.csv", HEADER + "u,a,1\nu,b\nu,c,x\nu,,4\n,c,1\n")
    main(["csv", "--interactions", str(path), "--name", "d", "--out", str(tmp_path), "--on-broken-line", "skip"])
    printed = capsys.readouterr().out
    assert f"{path}, line 3: 2 fields where the header has 3" in printed
    assert f"{path}, line 4: the time 'x'" in printed
    assert f"{path}, line 5: the item id is empty" in printed
    assert "line 6" not in printed
    assert "... and 1 more" in printed


def test_order_is_time_then_order_column_then_place(tmp_path):
    text = "user_id,item_id,timestamp,order\nu,late,9,1\nu,third,5,7\nu,second,5,2\nu,fourth,5,7\nu,first,4,9\n"
    run_csv(tmp_path, text)
    assert pairs(tmp_path / "out") == {"u": ["first", "second", "third", "fourth", "late"]}
    run_csv(tmp_path, text.replace("order", "rank"), columns=CsvColumns(order="rank"))
    assert pairs(tmp_path / "out") == {"u": ["first", "second", "third", "fourth", "late"]}
    run_csv(tmp_path, text.replace("order", "rank"))
    assert pairs(tmp_path / "out") == {"u": ["first", "third", "second", "fourth", "late"]}


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    rows = [f"u{n % 3},i{n},7" for n in range(300)]
    run_csv(tmp_path, HEADER + "\n".join(rows))
    assert pairs(tmp_path / "out") == {f"u{k}": [f"i{n}" for n in range(k, 300, 3)] for k in range(3)}


def test_times_stay_exact(tmp_path):
    nano = 1_600_000_000_000_000_001
    run_csv(tmp_path, HEADER + f"u,b,{nano + 1}\nu,a,{nano}\n")
    assert [row[2] for row in inter(tmp_path / "out")] == [str(nano), str(nano + 1)]
    run_csv(tmp_path, HEADER + "u,c,7.25\nu,b,1970-01-01 00:00:07\nu,a,1970-01-01T00:00:00+00:00\n")
    assert [row[1:3] for row in inter(tmp_path / "out")] == [("a", "0.0"), ("b", "7.0"), ("c", "7.25")]


def test_no_time_uses_the_place_in_the_file(tmp_path):
    run_csv(tmp_path, "user_id,item_id\nu,z\nv,y\nu,a\n", no_time=True)
    assert inter(tmp_path / "out") == [("u", "z", "1", "1"), ("u", "a", "2", "2"), ("v", "y", "1", "1")]


def test_column_options(tmp_path):
    interactions = write(tmp_path / "i.tsv", "who\twhat\twhen\tstars\nu\ta\t3\t5\nu\tb\t1\t2\n")
    items = write(tmp_path / "t.tsv", "sku\tname\tshop\ta b\na\tTable\tIkea\tx\nb\tBed\t\ty\n")
    columns = "--user-column who --item-column what --time-column when --rating-column stars --items-item-column sku"
    arguments = [
        "csv",
        "--interactions",
        str(interactions),
        "--items",
        str(items),
        "--out",
        str(tmp_path),
        "--name",
        "d",
    ]
    main([*arguments, *columns.split(), "--title-column", "name", "--text-columns", "brand=shop,a b"])
    assert read(tmp_path / "d" / "d.item") == (
        ["item_id:token", "title:token_seq", "brand:token_seq", "a_b:token_seq"],
        [("a", "Table", "Ikea", "x"), ("b", "Bed", "", "y")],
    )
    assert inter(tmp_path) == [("u", "b", "2", "1", "1"), ("u", "a", "5", "3", "2")]
    main([*arguments, *columns.split(), "--delimiter", "tab"])
    assert item(tmp_path) == {"a": (), "b": ()}


@pytest.mark.parametrize(("more", "words"), [
    (["--k-core", "x"], "argument --k_core/--k-core: invalid int value: 'x'. See python -m recbole_eimf prepare csv"),
    (["--no-time", "--time-column", "when"], "--no-time, --time-column=when"),
])  # fmt: skip
def test_wrong_options_are_one_line(tmp_path, capsys, more, words):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    start = ["csv", "--interactions", str(tmp_path / "i.csv"), "--name", "d", "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match=re.escape(words)):
        main([*start, *more])
    assert not capsys.readouterr().err


def test_an_order_column_in_the_second_file_only(tmp_path):
    first = write(tmp_path / "1.csv", HEADER + "u,a,1\nu,b,1\n")
    second = write(tmp_path / "2.csv", "user_id,item_id,timestamp,order\nu,d,1,2\nu,c,1,1\nu,e,1,-1\n")
    prepare_csv([first, second, first], tmp_path, "d")
    assert pairs(tmp_path) == {"u": ["e", "a", "b", "a", "b", "c", "d"]}


def test_several_files_and_a_byte_order_mark(tmp_path):
    first = write(tmp_path / "1.csv", "\ufeff" + HEADER + "u,a,1\n")
    second = write(tmp_path / "2.csv", "item_id,timestamp,user_id\r\nb,0,u\r\n")
    prepare_csv([first, second], tmp_path, "d")
    assert pairs(tmp_path) == {"u": ["b", "a"]}


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["in.csv", "is empty"]),
        (HEADER, ["in.csv", "no interaction"]),
        ("\n", ["in.csv, line 1", "column names"]),
        ("user_id,item_id,timestamp,item_id\n", ["line 1", "'item_id' appears twice"]),
        ("user_id,item_idd,timestamp\nu,a,1\n", ["line 1", "'item_id'", "Did you mean 'item_idd'", "--item-column"]),
        ("user_id;item_id;timestamp\nu;a;1\n", ["--delimiter"]),
        ("user_id,item_id\nu,a\n", ["'timestamp'", "--time-column", "--no-time"]),
        (HEADER + "u,a,1\nu,b,1,9\n", ["in.csv, line 3", "4 fields", "3", "'u,b,1,9'", "--on-broken-line skip"]),
        (HEADER + "u,a,1\n\ufeff" + HEADER + "u,b,2\n", ["line 3", "the header once more"]),
        (HEADER + '"u\n1",a,1\n', ["line 2", "control character"]),
        (HEADER + 'u,a,1\n"u" x,b,2\n', ["line 3", "not csv"]),
        (HEADER + 'u,a,1\nu,"b,2\n', ["line 3", "not csv"]),
        (HEADER + "u,a,yesterday\n", ["line 2", "'yesterday'", "ISO 8601"]),
        (HEADER + "u,a,\n", ["line 2", "the time ''"]),
        (HEADER + "u,a,nan\n", ["line 2", "'nan'"]),
        (HEADER + "u,a,1_000\n", ["line 2", "'1_000'"]),
        (HEADER + "u,a,1e300\n", ["line 2", "'1e300'"]),
        (HEADER + "u,a,-inf\n", ["line 2", "'-inf'"]),
        (HEADER + f"u,a,{2**63}\n", ["line 2", f"'{2**63}'"]),
        (HEADER + " ,a,1\n", ["line 2", "the user id is empty"]),
        (HEADER + "u,NA,1\n", ["line 2", "item id 'NA'", "missing value"]),
        (HEADER + "u,[PAD],1\n", ["line 2", "[PAD]"]),
        (HEADER + 'u,"a\tb",1\n', ["line 2", "a tab"]),
        (HEADER + 'u,"""a",1\n', ["line 2", "double quote"]),
        ("user_id,item_id,timestamp,rating\nu,a,1,good\n", ["line 2", "rating 'good'"]),
        ("user_id,item_id,timestamp,order\nu,a,1,x\n", ["line 2", "order 'x'"]),
    ],
)
def test_faults_name_place_and_value(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        run_csv(tmp_path, text)
    for part in said:
        assert part in str(caught.value)
    assert not (tmp_path / "out" / "d").exists()


def test_broken_lines_can_be_left_out(tmp_path):
    text = HEADER + 'u,a,1\nu,b\n"u" x,b,2\nNA,a,1\n\nu,c,3\n'
    report = run_csv(tmp_path, text, on_broken_line="skip")
    assert pairs(tmp_path / "out") == {"u": ["a", "c"]}
    assert report.counts["interactions read"] == 2
    assert report.counts["interactions: broken lines left out"] == 3
    assert [place.split(": ")[0][-6:] for place in report.places["interactions: broken lines left out"]] == [
        "line 3",
        "line 4",
        "line 5",
    ]
    with pytest.raises(DataError, match=r"no interaction in it.*line 2"):
        run_csv(tmp_path, HEADER + "u,b\n", on_broken_line="skip")


def test_missing_rating_is_counted_and_stays_empty(tmp_path):
    text = "user_id,item_id,timestamp,rating\nu,a,1,4\nu,b,2,\n"
    assert run_csv(tmp_path, text).counts["interactions without a rating"] == 1
    assert [row[2] for row in inter(tmp_path / "out")] == ["4", ""]


@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_encoding_names_the_line(tmp_path, zipped):
    # far enough down that the decoder meets it in another block than the file's start
    text = HEADER + "".join(f"u,i{n},{n}\n" for n in range(3000)) + "u,café,1\n"
    path = write(tmp_path / ("i.csv.gz" if zipped else "i.csv"), text, "latin-1")
    with pytest.raises(DataError, match=r"line 3002: byte 0xe9 \(column 6\) is not utf-8.*--encoding"):
        prepare_csv(path, tmp_path, "d")
    prepare_csv(path, tmp_path, "d", encoding="latin-1")
    assert "café" in {row[1] for row in inter(tmp_path)}
    with pytest.raises(DataError, match="'latin-none' is not an encoding"):
        prepare_csv(path, tmp_path, "d", encoding="latin-none")


def test_utf16_is_named_and_no_traceback(tmp_path):
    path = write(tmp_path / "i.csv", HEADER + "u,a,1\n", "utf-16")
    with pytest.raises(DataError, match=r"byte 0xff \(column 1\) is not utf-8.*--encoding \(utf-16"):
        prepare_csv(path, tmp_path, "d")
    prepare_csv(path, tmp_path, "d", encoding="utf-16")
    assert [row[1] for row in inter(tmp_path)] == ["a"]
    plain = write(tmp_path / "plain.csv", HEADER + "u,a,1\n")
    with pytest.raises(DataError, match=r"plain.csv: not utf-16 .*--encoding"):
        prepare_csv(plain, tmp_path, "d", encoding="utf-16")


def test_a_column_in_other_letters_is_suggested(tmp_path):
    path = write(tmp_path / "i.csv", "User_ID,item_id,timestamp\nu,a,1\n")
    with pytest.raises(DataError, match="no column 'user_id'.*Did you mean 'User_ID'"):
        prepare_csv(path, tmp_path, "d")


def test_all_columns_that_are_missing_are_named_at_once(tmp_path):
    path = write(tmp_path / "i.csv", "user,item,when,stars\nu,a,1,5\n")
    with pytest.raises(DataError) as refused:
        prepare_csv(path, tmp_path, "d", columns=CsvColumns(rating="star"))
    said = str(refused.value)
    assert "i.csv, line 1: no columns 'user_id', 'item_id', 'timestamp', 'star'; there are 'user', 'item'," in said
    for option in ("user", "item", "time", "rating"):
        assert f"Name the column with --{option}-column" in said
    assert "'star': Did you mean 'stars'? Name the column with --rating-column." in said
    assert "Is it the right file" not in said
    with pytest.raises(
        DataError, match="no columns 'item_id', 'name', 'maker'; there are 'id'.*--items-item-column.*--tit"
    ):
        run_csv(tmp_path, HEADER + "u,a,1\n", "id\na\n", columns=CsvColumns(title="name", text=["maker"]))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PAR1\x15\x80", r"i.csv: a parquet file, not text\. .*read_parquet"),
        (b"PK\x03\x04\x14\x80", r"i.csv: a zip archive or an Excel workbook, not text\. .*as csv"),
        (b"BZh91AY\x80", r"i.csv: packed with bzip2, not text\. .*gzip"),
        (b'{"user_id":"u","item_id":"a","timestamp":1}\n', r"i.csv, line 1: JSON, not CSV\. .*read_json"),
    ],
)
def test_what_is_no_csv_is_named_and_not_called_an_encoding(tmp_path, start, said):
    (tmp_path / "i.csv").write_bytes(start)
    with pytest.raises(DataError, match=said):
        prepare_csv(tmp_path / "i.csv", tmp_path, "d")


def test_gzip_faults(tmp_path):
    rng = random.Random(0)
    whole = write(tmp_path / "w.csv.gz", HEADER + "".join(f"u,{rng.random()},1\n" for _ in range(3000))).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[-8] ^= 1  # the checksum
    (tmp_path / "damaged.csv.gz").write_bytes(damaged)
    (tmp_path / "plain.csv.gz").write_text(HEADER + "u,a,1\n")
    with pytest.raises(DataError, match=r"cut.csv.gz, after line \d{3,}: the gzip data"):
        prepare_csv(tmp_path / "cut.csv.gz", tmp_path, "d")
    with pytest.raises(DataError, match=r"damaged.csv.gz, after line 3001: the gzip data"):
        prepare_csv(tmp_path / "damaged.csv.gz", tmp_path, "d")
    with pytest.raises(DataError, match="named .gz but not gzip"):
        prepare_csv(tmp_path / "plain.csv.gz", tmp_path, "d")
    (tmp_path / "w.csv").write_bytes(whole)
    prepare_csv(tmp_path / "w.csv", tmp_path, "d")
    assert len(inter(tmp_path)) == 3000


def test_missing_file_suggests(tmp_path):
    write(tmp_path / "ratings.csv", HEADER)
    with pytest.raises(DataError, match=r"rating\.csv: no such file. Did you mean 'ratings.csv'"):
        prepare_csv(tmp_path / "rating.csv", tmp_path, "d")
    with pytest.raises(DataError, match="not a file"):
        prepare_csv(tmp_path, tmp_path, "d")


def test_items_faults(tmp_path):
    text = HEADER + "u,a,1\nu,b,2\n"
    with pytest.raises(DataError, match=r"items.csv, line 1: no column 'item_id'.*--items-item-column"):
        run_csv(tmp_path, text, "id,title\na,A\n")
    with pytest.raises(DataError, match=r"items.csv, line 3: 1 fields where the header has 2"):
        run_csv(tmp_path, text, "item_id,title\na,A\nb\n")
    with pytest.raises(DataError, match=r"items.csv, line 3: the header once more: 'item_id,title'.*skip"):
        run_csv(tmp_path, text, "item_id,title\na,A\nitem_id,title\nb,B\n")
    with pytest.raises(DataError, match=r"names none of the 2 items .* 'a'"):
        run_csv(tmp_path, text, "item_id,title\nx,A\n")
    assert not (tmp_path / "out" / "d").exists()
    report = run_csv(tmp_path, text, "item_id,title,brand\nb,,\nb,B,\nb,C,\n,x,y\nb\n", on_broken_line="skip")
    assert item(tmp_path / "out") == {"a": ("", ""), "b": ("B", "")}
    assert report.counts["items: broken lines left out"] == 2
    assert report.counts["items named again (the first text stays)"] == 1
    assert report.counts["items not in the items' file"] == 1
    assert "items without text" not in report.counts
    with pytest.raises(DataError, match="from an earlier run"):
        run_csv(tmp_path, text)


def test_a_file_that_is_read_is_not_written_over(tmp_path):
    place = tmp_path / "out" / "self"
    place.mkdir(parents=True)
    (place / "self.inter").write_text("user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(DataError, match=r"self\.inter: would be written over while it is read"):
        prepare_csv(place / "self.inter", tmp_path / "out", "self")
    assert (place / "self.inter").read_text().startswith("user_id,item_id")


@pytest.mark.parametrize(
    ("broken", "left"),
    [
        ('u,"a,2\n', 6),  # never closed
        ('u,"a,2\nu,b,3\nu,c"d,4\n', 8),  # closed by another stray one
        ('u,"a,2\nu,b,3\nu,c"\n', 7),  # closed as a field that has lines in it, in a record of too few
    ],
)
def test_a_stray_quote_takes_no_other_line_with_it(tmp_path, broken, left):
    """Left out with skip, one line was all that a report counted, and the rest of the file was gone."""
    after = "".join(f"v,x{number},{number}\n" for number in range(5))
    file = write(tmp_path / "i.csv", HEADER + "u,z,1\n" + broken + after)
    report = prepare_csv(file, tmp_path / "out", "d", on_broken_line="skip")
    written = (tmp_path / "out" / "d" / "d.inter").read_text()
    assert [line for line in written.splitlines() if line.startswith("v")][-1].startswith("v\tx4\t")
    assert written.count("\nv\t") == 5
    assert report.counts["interactions read"] == left
    with pytest.raises(DataError, match=r"i\.csv, line 3: .*a quote that opens in this line runs on to line \d+"):
        prepare_csv(file, tmp_path / "out2", "d")


def test_a_data_set_that_prepare_did_not_make_is_not_written_over(tmp_path):
    place = tmp_path / "out" / "own"
    place.mkdir(parents=True)
    (place / "own.inter").write_text("user_id:token\titem_id:token\n")
    file = write(tmp_path / "i.csv", HEADER + "u,a,1\n")
    with pytest.raises(DataError, match=r"own\.inter: is there already and was not made by `prepare`.*move it away"):
        prepare_csv(file, tmp_path / "out", "own")
    assert (place / "own.inter").read_text() == "user_id:token\titem_id:token\n"
    (place / "prepare.json").write_text("{")
    with pytest.raises(DataError, match=r"prepare\.json: damaged .*or move the data set away"):
        prepare_csv(file, tmp_path / "out", "own")


def test_what_replaces_another_data_set_says_in_what_it_differs(tmp_path):
    file = write(tmp_path / "i.csv", HEADER + "u,a,1\nu,b,2\nv,a,3\n")
    other = write(tmp_path / "j.csv", HEADER + "u,a,1\nu,b,2\n")

    def replaced(path, **filters):
        report = prepare_csv(path, tmp_path / "out", "d", filters=Filters(**filters))
        assert "replaced" not in (tmp_path / "out" / "d" / "prepare.json").read_text()
        found = [line for line in report.remarks if line.startswith("replaced")]
        return found[0] if found else None

    start = "replaced: the folder held another data set of that name "
    assert replaced(file) is None
    assert replaced(file) is None
    assert replaced(file, min_user=2) == start + "(min_user was None, is 2)"
    assert replaced(other, min_user=2) == start + "(files was ['i.csv'], is ['j.csv'])"
    other.write_text(HEADER + "u,a,1\nu,b,2\nu,c,3\n")
    assert replaced(other, min_user=2) == start + "(kept: interactions was 2, is 3; kept: items was 2, is 3)"


def test_columns_and_names_that_clash(tmp_path):
    text = HEADER + "u,a,1\n"
    with pytest.raises(DataError, match="two columns would be written as 'brand'"):
        run_csv(tmp_path, text, "item_id,brand,x\na,A,B\n", columns=CsvColumns(text=["brand", "brand=x"]))
    with pytest.raises(DataError, match=r"no column 'brnd'.*Did you mean 'brand'.*--text-columns"):
        run_csv(tmp_path, text, "item_id,brand\na,A\n", columns=CsvColumns(text=["brnd"]))
    with pytest.raises(DataError, match="not a plain name"):
        prepare_csv(tmp_path / "in.csv", tmp_path, "../d")
    with pytest.raises(DataError, match="--delimiter"):
        prepare_csv(tmp_path / "in.csv", tmp_path, "d", delimiter="||")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_stop_leaves_no_half_written_files(tmp_path, monkeypatch, stop):
    run_csv(tmp_path, HEADER + "u,a,1\n", "item_id,title\na,A\n")
    folder = tmp_path / "out" / "d"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stopped(path, *_):
        path.write_text("half")
        raise stop

    monkeypatch.setattr(prepare_module, "_write_items", stopped)
    with pytest.raises(DataError if stop is OSError else stop):
        run_csv(tmp_path, HEADER + "u,b,1\n", "item_id,title\nb,B\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(DataError if stop is OSError else stop):
        prepare_csv(tmp_path / "in.csv", tmp_path / "out", "new", items=tmp_path / "items.csv")
    assert not (tmp_path / "out" / "new").exists()


# ------------------------------------------------------------------------------------------------------------ filters


def slow_core(rows, min_user, min_item):
    """The k-core one user or item at a time, as the definition has it."""
    rows = list(rows)
    while True:
        for side, least in ((0, min_user), (1, min_item)):
            few = [r[side] for r in rows if sum(r[side] == other[side] for other in rows) < least]
            if few:
                rows = [r for r in rows if r[side] != few[0]]
                break
        else:
            return rows


@pytest.mark.parametrize("seed", range(6))
def test_k_core_is_the_slow_loops(seed):
    rng = np.random.default_rng(seed)
    user, item = rng.geometric(0.12, 150) - 1, rng.geometric(0.12, 150) - 1
    least = [(2, 2), (3, 2), (4, 5), (0, 6), (5, 0), (30, 30)][seed]
    mask, rounds = k_core(user, item, *least)
    expected = slow_core(zip(user.tolist(), item.tolist()), *least)
    assert list(zip(user[mask].tolist(), item[mask].tolist())) == expected
    assert rounds >= 1
    assert (seed == 5) == (not expected)


def test_k_core_repeats_until_stable(tmp_path):
    # c goes (one user), then w (one item left), then nothing more: two rounds
    text = HEADER + "u,a,1\nu,b,2\nv,a,1\nv,b,2\nw,a,1\nw,c,2\n"
    report = run_csv(tmp_path, text, filters=Filters(k_core=2))
    assert pairs(tmp_path / "out") == {"u": ["a", "b"], "v": ["a", "b"]}
    assert report.counts["  rounds of that"] == 2
    assert report.counts["  users dropped by it"] == report.counts["  items dropped by it"] == 1
    run_csv(tmp_path, text, filters=Filters(min_item=3))
    assert pairs(tmp_path / "out") == {"u": ["a"], "v": ["a"], "w": ["a"]}
    with pytest.raises(DataError, match=r"6 before this step .*users below 4.*--k-core"):
        run_csv(tmp_path, text, filters=Filters(k_core=4))


@pytest.mark.parametrize(
    ("which", "expected"),
    [("keep", ["a", "b", "a", "c", "a"]), ("first", ["a", "b", "c"]), ("last", ["b", "c", "a"])],
)
def test_duplicates(tmp_path, which, expected):
    text = HEADER + "u,a,9\nu,b,2\nu,a,1\nu,a,3\nu,c,4\nv,a,1\n"
    report = run_csv(tmp_path, text, filters=Filters(duplicates=which))
    assert pairs(tmp_path / "out") == {"u": expected, "v": ["a"]}
    assert report.counts["kept: interactions"] == len(expected) + 1


@pytest.mark.parametrize("which", ["first", "last"])
def test_pairs_beyond_32_bits_are_no_duplicates(which):
    user, item = np.array([0, 1 << 16, 1 << 16], dtype=np.int32), np.array([5, 5, 5], dtype=np.int32)
    expected = [True, which == "first", which == "last"]
    assert _one_per_pair(user, item, 1 << 16, which).tolist() == expected


@pytest.mark.parametrize("rated", [False, True])
def test_rows_are_written_in_parts(tmp_path, monkeypatch, rated):
    rows = [f"u{n % 3},i{n},{n}" + (f",{n % 5}" if rated else "") for n in range(11)]
    header = HEADER.strip() + (",rating\n" if rated else "\n")
    written = []
    for together in (100, 4):
        monkeypatch.setattr(prepare_module, "_ROWS_PER_WRITE", together)
        run_csv(tmp_path, header + "\n".join(rows))
        written.append(inter(tmp_path / "out"))
    assert len(written[0]) == 11
    assert written[1] == written[0]


def test_copies_are_told_and_left_out(tmp_path):
    text = HEADER + "u,a,1\nu,b,2\nu,a,3\nu,c,2\nu,b,2\nu,b,2\nv,a,1\n"
    report = run_csv(tmp_path, text)
    assert any(said.startswith("copies: 2 interactions") and "distinct" in said for said in report.remarks)
    report = run_csv(tmp_path, text, filters=Filters(duplicates="distinct"))
    assert pairs(tmp_path / "out") == {"u": ["a", "b", "c", "a"], "v": ["a"]}
    assert report.counts["dropped: copies (same user, item and time)"] == 2
    assert not any(said.startswith("copies") for said in report.remarks)
    run_csv(tmp_path, HEADER + "u,a,1\nu,a,2\nu,b,2\n", filters=Filters(duplicates="distinct"))
    assert pairs(tmp_path / "out") == {"u": ["a", "a", "b"]}  # the same item again, at another time, is no copy
    with pytest.raises(DataError, match="--duplicates distinct: without times"):
        prepare_csv(tmp_path / "in.csv", tmp_path, "d", no_time=True, filters=Filters(duplicates="distinct"))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((1700000000, 1710000000), "times: 2023-11-14 to 2024-03-09, read as Unix seconds"),
        (("2023-11-14", "2024-03-09T10:00:00"), "times: 2023-11-14 to 2024-03-09, read as Unix seconds"),
        ((1700000000123, 1710000000123), "times: 2023-11-14 to 2024-03-09, read as Unix milliseconds"),
        ((20231114, 20240309), "times: 2023-11-14 to 2024-03-09, read as Unix seconds"),
        ((20231114, 20240230), "times: 2.02311e+07 to 2.02402e+07"),  # no day of February
        (("2023-11-14 22:15:48 UTC", "2024-03-09 10:00:00 GMT"), "times: 2023-11-14 to 2024-03-09, read as Unix"),
        ((3, 12), "times: 3 to 12"),
        ((1700000000, 1710000000123), "WARNING: 1 of 2 times are no Unix milliseconds as the latest (1710000000123)"),
        ((-1, 1710000000), "WARNING: 1 of 2 times are no Unix seconds as the latest (1710000000)"),
    ],
)  # fmt: skip
def test_times_are_told_as_dates_and_other_units_warned_of(tmp_path, times, said):
    report = run_csv(tmp_path, HEADER + f"u,a,{times[0]}\nu,b,{times[1]}\n")
    assert report.remarks[0].startswith(said)


def test_days_without_hyphens_beside_other_times_are_warned_of(tmp_path):
    """An export of October says 20231003, that of September 2023-09-30: as numbers October came first."""
    said = run_csv(tmp_path, HEADER + "u,a,2023-09-30\nu,b,20231003\n").remarks[0]
    assert said.startswith("WARNING: 1 of 2 times are no Unix seconds as the latest (1696032000) is; the smallest")
    said = run_csv(tmp_path, HEADER + "u,a,20231003\nu,b,20231131\nu,c,20231004\n").remarks[1]
    assert "the first is 20231131" in said
    assert said.startswith("WARNING: 2 of 3 times have the form 20231118. Others are no such")
    unlike = run_csv(tmp_path, HEADER + "u,a,20231003\nu,b,20239999\nu,c,20239998\n").remarks  # numbers of orders
    assert not any("20231118" in said for said in unlike)


def test_days_without_hyphens_are_days_where_all_are(tmp_path):
    report = run_csv(tmp_path, HEADER + "u,b,20240101\nu,a,20231231\n")
    assert pairs(tmp_path / "out") == {"u": ["a", "b"]}
    assert report.remarks[-1].startswith("days: every time has the form 20231118")
    written = next((tmp_path / "out").rglob("*.inter")).read_text()
    assert "1703980800" in written
    assert "1704067200" in written
    assert not any(said.startswith("days") for said in run_csv(tmp_path, HEADER + "u,b,20240101\nu,a,7\n").remarks)


def test_min_rating_and_max_history(tmp_path):
    text = "user_id,item_id,timestamp,rating\n" + "".join(f"u,i{n},{n},{n % 5 + 1}\n" for n in range(20)) + "v,i1,1,\n"
    report = run_csv(tmp_path, text, filters=Filters(min_rating=3.5, max_history=3))
    assert pairs(tmp_path / "out") == {"u": ["i14", "i18", "i19"]}
    assert report.counts["dropped: rated below 3.5"] == 13
    assert report.counts["dropped: older than the latest 3"] == 5
    report = run_csv(tmp_path, text, filters=Filters(min_rating=4))
    assert report.counts["dropped: rated below 4"] == 13, "what is rated 4 is not rated below 4"
    with pytest.raises(DataError, match="0 after.*Lower --min-rating"):
        run_csv(tmp_path, text, filters=Filters(min_rating=9))
    with pytest.raises(DataError, match="no interaction has a rating"):
        run_csv(tmp_path, HEADER + "u,a,1\n", filters=Filters(min_rating=3))


@pytest.mark.parametrize("bad", [{"duplicates": "none"}, {"k_core": -1}, {"min_item": -2}, {"max_history": 0}])
def test_filter_values_are_checked(bad):
    with pytest.raises(DataError, match="--" + next(iter(bad)).replace("_", "-")):
        Filters(**bad)


@pytest.mark.parametrize("form", ["{}Z", "{}.5", "{}.25+0000", "{}+00:00", "{}+00", "{},123456789Z", "{}z"])
def test_times_are_read_in_the_forms_that_programs_write(form):
    """Those that Python 3.10's own reader refuses too."""
    assert int(parse_time(form.format("2023-11-18T22:15:48"))) == 1700345748
    assert moment_of("2023-11-18 22:15:48-0130").timestamp() == 1700345748 + 5400
    assert moment_of("2023-11-18T22:15Z").second == 0
    for wrong in ("2023-13-01", "2023-11-18T25:00Z", "yesterday", "2023-11-18T22:15:48+"):
        with pytest.raises(ValueError, match=r"\S"):
            moment_of(wrong)


@pytest.mark.parametrize("option", ["--title-column=name", "--items-item-column=id", "--text-columns=brand"])
def test_what_is_said_of_a_file_of_items_that_is_not_given_is_an_error(tmp_path, option):
    path = write(tmp_path / "i.csv", "user_id,item_id,timestamp\nu1,b1,1\n")
    with pytest.raises(
        ConfigError, match=f"{option}: describes the file of items, and none is given. Add --items FILE"
    ):
        main(["csv", "--interactions", str(path), "--name=x", f"--out={tmp_path / 'out'}", option])
    assert not (tmp_path / "out").exists()


def test_ids_with_white_space_around_them_are_kept_and_shown(tmp_path, capsys):
    path = write(tmp_path / "i.csv", "user_id,item_id,timestamp\nu1, b1,1\nu1 ,b2,2\nu 1,b3,3\n")
    assert main(["csv", "--interactions", str(path), "--name=x", f"--out={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "ids with white space around them, which is kept as part of the id" in said
    assert "line 2: ' b1'" in said
    assert "line 3: 'u1 '" in said
    assert "line 4" not in said

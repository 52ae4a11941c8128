"""prepare: the other raw sources, and what RecBole itself makes of the files."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from recbole_eimf.cli.prepare import main
from recbole_eimf.core.errors import DataError
from recbole_eimf.data.item_text import clean_text
from recbole_eimf.data.prepare import write as prepare_module
from recbole_eimf.data.prepare.write import (
    prepare_amazon,
    prepare_csv,
    prepare_mind,
    prepare_movielens,
)
from tests.data.prepared import HEADER, inter, item, pairs, run_csv, write

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "datasets"


# ------------------------------------------------------------------------------------------------------------- amazon


def review(release, user, item, time, rating=5.0):
    if release == "2023":
        return {
            "rating": rating,
            "title": "Five",
            "text": "ok",
            "parent_asin": item,
            "user_id": user,
            "timestamp": time,
        }
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'J. "JJ"',
        "helpful": [0, 0],
        "reviewText": "it's a 7\" \u2013 fine",
        "overall": rating,
        "unixReviewTime": time,
        "reviewTime": "11 4, 2013",
    }


@pytest.mark.parametrize(
    ("release", "dump"), [("2014", repr), ("2014", json.dumps), ("2018", json.dumps), ("2023", json.dumps)]
)
def test_amazon_reviews(tmp_path, release, dump):
    rows = [review(release, f"A{u}", f"B{i}", 100 - i) for u in range(5) for i in range(5)]
    rows.append(review(release, "A0", "B9", 1))
    lines = [dump(row) for row in rows]
    lines[3:3] = ['{"cut', "[1, 2]", dump({**review(release, None, "B1", 7)}), '{"asin": __import__("os")}']
    reviews = write(tmp_path / "r.json.gz", "\n".join(lines) + "\n")
    metas = {
        "2014": [
            {"asin": "B0", "title": "Mr &amp; Mrs \\d", "categories": [["Toys", "Dolls"], ["Gifts"]], "brand": "Acme"},
            {"asin": "0000", "title": "never bought", "description": "x"},
            {"asin": "B1", "description": "It's 7\" wide", "price": 1.5},
        ],
        "2018": [
            {"category": ["Toys", "Dolls"], "description": ["It's 7\" wide", "twice"], "title": "T", "asin": "B0"},
            {"category": [], "title": "never bought", "asin": "0000"},
        ],
        "2023": [
            {"title": "T", "description": [], "store": "Acme", "categories": ["Toys", "Dolls"], "parent_asin": "B0"},
            {"title": None, "parent_asin": "B1", "store": None, "categories": [], "description": []},
        ],
    }[release]
    meta = write(tmp_path / "m.json.gz", "\n".join(map(dump, metas)) + "\n")
    report = prepare_amazon(release, reviews, tmp_path, "d", meta=meta)
    assert pairs(tmp_path) == {f"A{u}": ["B4", "B3", "B2", "B1", "B0"] for u in range(5)}
    assert inter(tmp_path)[0] == ("A0", "B4", "5", "96", "1")
    assert report.counts["interactions: broken lines left out"] == 4
    assert report.places["interactions: broken lines left out"][0].startswith(f"{reviews}, line 4: neither JSON nor")
    texts = item(tmp_path)
    assert (
        texts["B0"]
        == {
            "2014": ("Mr & Mrs \\d", "Acme", "Toys > Dolls | Gifts", ""),
            "2018": ("T", "", "Toys > Dolls", "It's 7\" wide twice"),
            "2023": ("T", "Acme", "Toys > Dolls", ""),
        }[release]
    )
    assert sorted(texts) == ["B0", "B1", "B2", "B3", "B4"]
    if release == "2014":
        assert texts["B1"] == ("", "", "", "It's 7\" wide")
        assert report.counts["items without a title"] == 1
    with pytest.raises(DataError, match=r"line 4: neither JSON"):
        prepare_amazon(release, reviews, tmp_path, "d", meta=meta, on_broken_line="error")


@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("2014", "A,B,5.0,9\nA,C,4.0,8\n"),
        ("2018", "B,A,5.0,9\nC,A,4.0,8\n"),
        ("2023", "user_id,parent_asin,rating,timestamp\nA,B,5.0,9\nA,C,4.0,8\n"),
    ],
)
def test_amazon_ratings_only(tmp_path, release, text):
    path = write(tmp_path / "r.csv", text)
    main([f"amazon-{release}", "--reviews", str(path), "--k-core", "0", "--name", "d", "--out", str(tmp_path)])
    assert inter(tmp_path) == [("A", "C", "4", "8", "1"), ("A", "B", "5", "9", "2")]
    with pytest.raises(DataError, match="users below 5"):
        main([f"amazon-{release}", "--reviews", str(path), "--name", "d", "--out", str(tmp_path)])


def test_amazon_text_columns_and_wrong_file(tmp_path):
    reviews = write(tmp_path / "r.jsonl", json.dumps(review("2023", "A", "B", 1700000000123)))
    meta = write(
        tmp_path / "m.jsonl", json.dumps({"parent_asin": "B", "title": "T", "features": ["a", "b"], "store": "S"})
    )
    arguments = ["amazon-2023", "--reviews", str(reviews), "--meta", str(meta), "--k-core", "0"]
    main([*arguments, "--text-columns", "title,features,brand", "--name", "d", "--out", str(tmp_path)])
    assert item(tmp_path) == {"B": ("T", "a b", "S")}
    assert inter(tmp_path)[0][3] == "1700000000123"
    with pytest.raises(DataError, match=r"no interaction in it.*line 1: the user id is missing.*amazon-2018"):
        prepare_amazon("2018", reviews, tmp_path, "e")
    csv_file = write(tmp_path / "r.csv", "user,parent_asin,rating,timestamp\nA,B,5,1\n")
    with pytest.raises(DataError, match=r"no column 'user_id'.*Is it the right file"):
        prepare_amazon("2023", csv_file, tmp_path, "e")
    with pytest.raises(DataError, match="'2020' is not known"):
        prepare_amazon("2020", reviews, tmp_path, "e")


# --------------------------------------------------------------------------------------------------- movielens, mind


@pytest.mark.parametrize("form", ["100k", "1m", "10m", "25m"])
def test_movielens(tmp_path, form):
    ratings, movies, encoding = {
        "100k": (
            "1\t7\t5\t900\n1\t8\t3\t100\n",
            "7|Misérables, Les (1995)|01-Jan-1995||http://x|" + "|".join("0" * 8 + "1" + "0" * 9 + "1") + "\n",
            "latin-1",
        ),
        "1m": ("1::7::5::900\n1::8::3::100\n", "7::Misérables, Les (1995)::Drama|Western\n", "latin-1"),
        "10m": ("1::7::5::900\n1::8::3::100\n", "7::Misérables, Les (1995)::Drama|Western\n", "utf-8"),
        "25m": (
            "userId,movieId,rating,timestamp\n1,7,5.0,900\n1,8,3.0,100\n",
            'movieId,title,genres\n7,"Misérables, Les (1995)",Drama|Western\n',
            "utf-8",
        ),
    }[form]
    path = write(tmp_path / "ratings", ratings)
    films = write(tmp_path / "movies", movies, encoding)
    main(["movielens", "--ratings", str(path), "--movies", str(films), "--name", "d", "--out", str(tmp_path)])
    assert inter(tmp_path) == [("1", "8", "3", "100", "1"), ("1", "7", "5", "900", "2")]
    assert item(tmp_path) == {"7": ("Misérables, Les (1995)", "Drama | Western"), "8": ("", "")}
    if form != "25m":
        write(path, ratings + "1,9,9,9\n")
        with pytest.raises(DataError, match=r"ratings, line 3: 1 fields where 4 belong: '1,9,9,9'"):
            prepare_movielens(path, tmp_path, "e")


def test_mind(tmp_path):
    behaviors = write(
        tmp_path / "behaviors.tsv",
        "1\tU1\t11/13/2019 8:00:00 AM\tN1 N2 N3\tN9-0 N6-1\n"
        "2\tU1\t11/11/2019 9:05:58 PM\tN1 N2\tN3-1 N4-0 N5-1\n"
        "3\tU2\t11/11/2019 12:05:58 AM\t\tN4-0\n"
        "4\tU3\t11/12/2019 6:00:00 AM\tN4\tN5-0 N6\n"
        "5\tU3\t2019-11-12\tN4\tN5-1\n"
        "6\tU3\n",
    )
    news = write(
        tmp_path / "news.tsv",
        'N1\tsports\tnfl\t"The Best" of\t"Abstract\thttps://x\t[{"a": 1}]\t[]\nN2\tnews\tworld\tSecond\t\tu\t[]\t[]\n',
    )
    report = prepare_mind(behaviors, tmp_path, "d", news=news)
    # the earliest line's history, then clicks by time; N3 came from a later history too and is not repeated
    assert pairs(tmp_path) == {"U1": ["N1", "N2", "N3", "N5", "N6"], "U3": ["N4"]}
    assert [row[2] for row in inter(tmp_path)] == ["1573506358"] * 4 + ["1573632000", "1573538400"]
    assert item(tmp_path)["N1"] == ("''The Best'' of", "sports > nfl", "''Abstract")
    assert report.counts["clicks from histories"] == 3
    assert report.counts["impressions without a label 0 or 1"] == 1
    assert report.counts["interactions: broken lines left out"] == 2
    assert report.counts["impression lines with another history of that user (not taken)"] == 1
    main(["mind-news", "--behaviors", str(behaviors), "--no-history", "--name", "e", "--out", str(tmp_path)])
    assert [row[1] for row in inter(tmp_path, "e")] == ["N3", "N5", "N6"]


# ------------------------------------------------------------------------------------- RecBole's reader, memory, real


@pytest.fixture
def recbole_dataset(monkeypatch):
    """Load an atomic data set with RecBole's own reader."""
    pytest.importorskip("recbole")
    from recbole.config import Config
    from recbole.data.dataset import Dataset

    monkeypatch.setattr("sys.argv", ["pytest"])

    def load(folder, name, item_columns):
        columns = {"inter": ["user_id", "item_id", "timestamp", "order"], "item": item_columns}
        settings = {"data_path": str(folder), "load_col": columns, "TIME_FIELD": "order", "train_neg_sample_args": None}
        return Dataset(Config(model="SASRec", dataset=name, config_dict=settings))

    return load


def loaded_titles(dataset):
    """{item token: title's words} as RecBole holds them."""
    feat = dataset.item_feat
    words, ids = dataset.field2id_token["title"], dataset.field2id_token["item_id"]
    return {
        str(ids[item]): [str(words[word]) for word in title if word]
        for item, title in zip(np.asarray(feat["item_id"]), list(feat["title"]))
        if item
    }


AWKWARD = [
    '"Quoted" at the start',
    'stray 24" Long',
    '"never closed',
    "'single' #hash",
    "tab\there",
    "two\nlines\r\n",
    "&quot;entity&quot; &lt;b&gt;",
    "next\x85line \u2028 sep \x00 nul \x1c fs",
    "",
    "N/A",
    "\\ back\\slash \\",
    'end"',
    "x" * 300_000,
    "naïve 東京 😀",
]


def test_recbole_loads_exactly_what_was_written(tmp_path, recbole_dataset):
    users = ["user 1", " lead", "naïve", "007", "o'brien", 'in"side', "#1", "1e5"]
    with open(tmp_path / "i.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in users:
            for n in range(len(AWKWARD)):
                writer.writerow([user, f"item {n}", 1_600_000_000 + n])
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["item_id", "title", "brand"])
        for n, title in enumerate(AWKWARD):
            writer.writerow([f"item {n}", title, '"' if n % 2 else 'a "b"'])
    report = prepare_csv(tmp_path / "i.csv", tmp_path, "d", items=tmp_path / "t.csv")
    dataset = recbole_dataset(tmp_path, "d", ["item_id", "title", "brand"])
    assert set(dataset.field2id_token["user_id"]) == {"[PAD]", *users}
    assert set(dataset.field2id_token["item_id"]) == {"[PAD]", *(f"item {n}" for n in range(len(AWKWARD)))}
    assert len(dataset.inter_feat) == len(users) * len(AWKWARD)
    raw = {key: texts[0].split() for key, texts in item(tmp_path).items()}
    assert loaded_titles(dataset) == raw
    assert raw["item 0"] == ["''Quoted''", "at", "the", "start"]
    assert raw["item 1"] == ["stray", '24"', "Long"]
    assert raw["item 6"] == ["''entity''", "<b>"]
    assert raw["item 7"] == ["next", "line", "sep", "nul", "fs"]
    assert raw["item 8"] == raw["item 9"] == []
    assert report.counts["texts cut to 100,000 characters"] == 1


def test_recbole_would_swallow_lines_without_the_cleaning(tmp_path, recbole_dataset, monkeypatch):
    """The reason for clean_text: fails when RecBole's reader no longer minds quotes, and the cleaning can go."""
    monkeypatch.setattr(prepare_module, "clean_text", lambda text: text)
    run_csv(tmp_path, HEADER + "u,a,1\nu,b,2\nu,c,3\n", 'item_id,title\na,"""x"\nb,y\nc,"z"""\n')
    assert len(recbole_dataset(tmp_path / "out", "d", ["item_id", "title"]).field2id_token["title"]) == 2


def test_recbole_loads_items_without_text_columns(tmp_path, recbole_dataset):
    run_csv(tmp_path, HEADER + "u,a,1\nu,b,2\n", "item_id\nb\n")
    dataset = recbole_dataset(tmp_path / "out", "d", ["item_id"])
    assert set(dataset.field2id_token["item_id"]) == {"[PAD]", "a", "b"}


@pytest.mark.parametrize("text", AWKWARD)
def test_clean_text_is_stable(text):
    once = clean_text(text)
    assert clean_text(once) == once or "&" in once
    assert not once.startswith('"')
    assert "\t" not in once
    assert len(once.splitlines()) <= 1


def test_memory_grows_with_the_interactions_not_with_the_file(tmp_path):
    rows, items = 150_000, 1_000
    with open(tmp_path / "i.csv", "w") as stream:
        stream.write("user_id,item_id,timestamp,review\n")
        text = "x" * 400
        stream.writelines(f"u{n % 5000},i{n * 7 % items},{n},{text}\n" for n in range(rows))
    with open(tmp_path / "t.csv", "w") as stream:
        stream.write("item_id,title\n")
        stream.writelines(f"i{n},{'y' * 50_000}\n" for n in range(items))
    size = (tmp_path / "i.csv").stat().st_size + (tmp_path / "t.csv").stat().st_size
    tracemalloc.start()
    prepare_csv(tmp_path / "i.csv", tmp_path, "d", items=tmp_path / "t.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # seen: 100 bytes a row; a list of dicts would take some 500, all texts together 100 MB
    assert size > 100e6
    assert peak < 150 * rows
    assert len(inter(tmp_path)) == rows


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [("amazon-office", 4905, 2420, 53258), ("amazon-prime-pantry", 12871, 8347, 115004)],
)
def test_real_data_has_the_papers_counts(tmp_path, recbole_dataset, name, users, items, interactions):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: real data is not part of the repository")
    report = prepare_csv(folder / "interactions.csv.gz", tmp_path, name, items=folder / "items.csv.gz")
    found = [report.counts[f"kept: {kind}"] for kind in ("users", "items", "interactions")]
    assert found == [users, items, interactions]
    dataset = recbole_dataset(tmp_path, name, ["item_id", "title"])
    assert [dataset.user_num - 1, dataset.item_num - 1, len(dataset.inter_feat)] == found
    assert loaded_titles(dataset) == {key: texts[0].split() for key, texts in item(tmp_path, name).items()}

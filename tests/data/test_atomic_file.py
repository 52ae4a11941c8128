"""The fast reading of interactions gives what RecBole's gives: columns, filters, ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from recbole.data.dataset import SequentialDataset

import recbole_eimf
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data import atomic_dataset, atomic_file
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.data.item_text import read_item_text
from recbole_eimf.experiment import assembly
from tests.conftest import TITLES, write_atomic

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tshop:token"
ALL = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp", "shop"]}}


def lines(count: int = 300, seed: int = 0) -> list[str]:
    """Rows whose ids first appear in no order, with ids and numbers that are easy to misread."""
    rng = np.random.default_rng(seed)
    users = ["u1", "10", "9", "007", "7", "é", "a b", "1e3", "nil", "-1", "True"]
    shops = ["", "NA", "s1", "s2", "null", "10"]
    numbers = ["3", "0.1", "1e-3", "", "nan", "2.2250738585072014e-308", "0.30000000000000004", "-0", "123456789.9876"]
    return [
        f"{users[rng.integers(len(users))]}\ti{rng.integers(12)}\t{numbers[rng.integers(len(numbers))]}"
        f"\t{rng.random() * 1e9!r}\t{shops[rng.integers(len(shops))]}"
        for _ in range(count)
    ]


def write(folder, rows, header=HEADER, end="\n", encoding="utf-8", last="\n", **others):
    target = folder / "odd"
    target.mkdir(exist_ok=True)
    (target / "odd.inter").write_bytes((end.join([header, *rows]) + last).encode(encoding))
    for suffix, text in others.items():
        (target / f"odd.{suffix}").write_text(text, encoding="utf-8")
    return {"data_path": str(folder)}


def both(make_config, keys):
    """RecBole's data set and ours, and whether ours read the file itself."""
    used = []
    config = make_config("IBIM", "odd", **keys)
    stock = SequentialDataset(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_dataset, "read_plain", lambda *a: used.append(atomic_file.read_plain(*a)) or used[-1])
        ours = LazySequenceDataset(make_config("IBIM", "odd", **keys))
    return stock, ours, bool(used) and used[0] is not None


def assert_same(stock, ours):
    assert list(stock.inter_feat.columns) == list(ours.inter_feat.columns)
    for field in stock.inter_feat:
        a, b = stock.inter_feat[field].to_numpy(), ours.inter_feat[field].to_numpy()
        assert a.dtype == b.dtype
        if a.dtype == np.float64:  # RecBole's reading may be off in the last bit
            np.testing.assert_allclose(a, b, rtol=1e-15, err_msg=field)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field)
    assert stock.inter_feat.index.equals(ours.inter_feat.index)
    assert stock.field2id_token.keys() == ours.field2id_token.keys()
    for field, tokens in stock.field2id_token.items():
        assert tokens.dtype == ours.field2id_token[field].dtype
        np.testing.assert_array_equal(tokens, ours.field2id_token[field])
        assert stock.field2token_id[field] == ours.field2token_id[field]
    for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum"):
        assert getattr(stock, name) == getattr(ours, name), name
    for feat in ("user_feat", "item_feat"):
        a, b = getattr(stock, feat), getattr(ours, feat)
        assert (a is None) == (b is None)
        if a is not None:
            pd.testing.assert_frame_equal(a, b)


ITEMS = "item_id:token\tkind:token_seq\n" + "".join(f"i{i}\tk{i % 3} k{i % 2}\n" for i in (11, 5, 0, 2, 30, 1, 3))
USERS = "user_id:token\tage:float\n10\t3\n007\t\nnobody\t4\nu1\t5\na b\t6\n"


@pytest.mark.parametrize("keys", [
    {},
    {"load_col": {"inter": ["item_id", "timestamp", "user_id"]}},
    {"load_col": None, "unload_col": {"inter": ["shop"]}},
    {"user_inter_num_interval": "[19,inf)", "item_inter_num_interval": "[15,36)"},
    {"item_inter_num_interval": "[24,25];[27,inf)"},
    {"rm_dup_inter": "first"},
    {"val_interval": {"rating": "[0,4]", "shop": ["s1", "s2"]}},
    {"alias_of_item_id": ["shop"]},
    {"threshold": {"rating": 1}, "LABEL_FIELD": "label"},
])  # fmt: skip
def test_data_sets_are_equal_under_every_filter(tmp_path, make_config, keys):
    stock, ours, fast = both(make_config, {**write(tmp_path, lines()), **ALL, **keys})
    assert fast
    assert_same(stock, ours)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_events_of_one_time_stay_in_order_where_duplicates_are_left_out(tmp_path, make_config, keep):
    """RecBole's sort by time deals events of one time anew, in files of more than a few rows."""
    rng = np.random.default_rng(0)
    events = [(u, i) for u in range(30) for i in rng.permutation(40)[:30]]
    rows = [f"u{u}\ti{i}\t1\t{n % 30 // 10}\ts1" for n, (u, i) in enumerate(events)]
    repeated = f"u0\ti{events[3][1]}\t1\t0\ts1"
    keys = {**write(tmp_path, [*rows, repeated]), **ALL}
    plain, cleaned = (
        LazySequenceDataset(make_config("IBIM", "odd", **keys, **more)) for more in ({}, {"rm_dup_inter": keep})
    )
    found = []
    for data in (plain, cleaned):
        frame = data.inter_feat
        pairs = zip(data.field2id_token["user_id"][frame["user_id"]], data.field2id_token["item_id"][frame["item_id"]])
        found.append(sorted(zip(frame["timestamp"], pairs), key=lambda event: event[0]))
    expected, twice = [event for _, event in found[0]], ("u0", f"i{events[3][1]}")
    at = [n for n, event in enumerate(expected) if event == twice]
    assert len(at) == 2
    del expected[at[1] if keep == "first" else at[0]]
    assert [event for _, event in found[1]] == expected


@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_a_byte_order_mark_is_named_with_the_remedy(tmp_path, semantic_cache, suffix):
    folder = write_atomic(tmp_path, "marked", [[0, 1, 2, 3, 4]] * 8, TITLES)
    path = folder / "marked" / f"marked.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    keys = {"data_path": str(folder), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    keys |= {"state": "ERROR", "compare_with": [], "show_progress": False}
    with pytest.raises(
        DataError, match=f"marked.{suffix}, line 1: begins with a byte order mark.*--encoding=utf-8-sig"
    ):
        recbole_eimf.run("TextKNN", "marked", **keys)
    assert recbole_eimf.run("TextKNN", "marked", **keys, encoding="utf-8-sig").test


@pytest.mark.parametrize("keys", [{}, {"user_inter_num_interval": "[12,inf)"}, {"filter_inter_by_user_or_item": False}])
def test_files_of_users_and_items_join_as_in_recbole(tmp_path, make_config, keys):
    columns = {**ALL["load_col"], "item": ["item_id", "kind"], "user": ["user_id", "age"]}
    place = write(tmp_path, lines(), item=ITEMS, user=USERS)
    stock, ours, fast = both(make_config, {**place, "load_col": columns, **keys})
    assert fast
    assert_same(stock, ours)


@pytest.mark.parametrize(("how", "fast"), [
    ({"end": "\r\n", "last": "\r\n"}, True),
    ({"last": ""}, True),
    ({"last": "\n\n\n"}, True),
    ({"header": HEADER.replace("shop:token", "shop:token_seq")}, False),
])  # fmt: skip
def test_line_ends_and_other_columns(tmp_path, make_config, how, fast):
    stock, ours, was_fast = both(make_config, {**write(tmp_path, lines(), **how), **ALL})
    assert was_fast == fast
    if fast:
        assert_same(stock, ours)


def test_separators_and_encodings(tmp_path, make_config):
    rows = [row.replace("\t", ",") for row in lines()]
    place = write(tmp_path, rows, header=HEADER.replace("\t", ","), encoding="latin-1")
    stock, ours, fast = both(make_config, {**place, **ALL, "field_separator": ",", "encoding": "latin-1"})
    assert fast
    assert "é" in ours.field2id_token["user_id"]
    assert_same(stock, ours)


@pytest.mark.parametrize("rows_before", [3, 3000])
@pytest.mark.parametrize("given", [{}, {"TIME_FIELD": "timestamp"}])  # the second looks at the header earlier
def test_a_file_in_another_encoding_is_named_with_the_place_and_the_remedy(tmp_path, make_config, rows_before, given):
    rows = [f"u{n}\ti1\t1\t1\ts1" for n in range(rows_before)]
    place = write(tmp_path, [*rows, "é\ti1\t1\t1\ts1"], encoding="latin-1")
    byte = (tmp_path / "odd" / "odd.inter").read_bytes().index("é".encode("latin-1"))
    wanted = rf"odd\.inter, line {rows_before + 2}: byte {byte} of the file is not utf-8\..*--encoding=latin-1"
    with pytest.raises(DataError, match=wanted):
        LazySequenceDataset(make_config("IBIM", "odd", **place, **ALL, **given))
    with pytest.raises(ConfigError, match="encoding=latin-7x: "):
        LazySequenceDataset(make_config("IBIM", "odd", **place, **ALL, **given, encoding="latin-7x"))


def test_items_in_another_encoding_are_named_too(tmp_path, make_config):
    place = write(tmp_path, lines(), item="")
    (tmp_path / "odd" / "odd.item").write_bytes(ITEMS.encode() + "i9\té\n".encode("latin-1"))
    columns = {**ALL["load_col"], "item": ["item_id", "kind"]}
    with pytest.raises(DataError, match=r"odd\.item, line 9: byte"):
        LazySequenceDataset(make_config("IBIM", "odd", **place, load_col=columns))


@pytest.mark.parametrize("row", [
    '"quoted"\ti1\t1\t1\ts1',
    "u1\ti1\t1\t1",  # too few
])  # fmt: skip
def test_what_the_fast_reading_might_see_otherwise_is_left_to_recbole(tmp_path, make_config, row):
    stock, ours, fast = both(make_config, {**write(tmp_path, [*lines(20), row, *lines(20, 1)]), **ALL})
    assert not fast
    assert_same(stock, ours)


def test_a_broken_file_is_recboles_to_complain_of(tmp_path, make_config):
    keys = {**write(tmp_path, [*lines(20), "u1\ti1\tmany\t1\ts1"]), **ALL}
    with pytest.raises(DataError, match="odd.inter, line 22: column 'rating' holds 'many', no number.*load_col"):
        LazySequenceDataset(make_config("IBIM", "odd", **keys))


ROWS = [f"u{n}\ti{m}\t5\t{m}\ts" for n in range(3) for m in range(4)]


@pytest.mark.parametrize(("header", "rows", "keys", "words"), [
    ("", [], {}, "odd.inter: the file is empty"),
    (HEADER, [], {}, "odd.inter: no interaction in it"),
    ("user_id\titem_id", ROWS, {}, "line 1: column 'user_id' says no type.*user_id:token"),
    (HEADER.replace("rating:float", "rating:number"), ROWS, {}, "column 'rating' has the type 'number'"),
    (HEADER.replace("user_id", "user"), ROWS, {}, "no column 'user_id'. Did you mean 'user'.*shop.*USER_ID_FIELD"),
    (HEADER, [*ROWS, "u1\ti1\t5\tyesterday\ts"], {},
     "odd.inter, line 14: column 'timestamp' holds 'yesterday', no number. Mend or remove the line"),
    (HEADER, [*ROWS[:3], "", "u1\ti1\t5\t2014-03-07\ts", "u1\ti1\t5\tno\ts"], {},
     "line 6: column 'timestamp' holds '2014-03-07'.*prepare csv"),
    (HEADER, [*ROWS, '"u\t1"\ti1\t5\t1,000\ts'], {}, "line 14: column 'timestamp' holds '1,000'"),
    (HEADER, [*ROWS, "u1\ti1\t5\t\ts"], {}, "'timestamp' is empty or no number in 1 of 13 rows, first in row 13"),
    (HEADER, ROWS, {"load_col": {"inter": ["user_id", "timestamp"]}}, "'item_id'.*is not read: add it to load_col"),
    (HEADER, ROWS, {"user_inter_num_interval": "[9,inf)"}, r"no interaction is left.*user_inter_num_interval=\[9,"),
])  # fmt: skip
def test_a_file_that_holds_no_sequences_is_named(tmp_path, make_config, header, rows, keys, words):
    with pytest.raises(DataError, match=words):
        LazySequenceDataset(make_config("IBIM", "odd", **write(tmp_path, rows, header), **keys))


def test_a_number_that_is_none_in_another_file_is_named(tmp_path, make_config):
    item = "item_id:token\tprice:float\ni0\t3\ni1\tdear\n"
    keys = write(tmp_path, ROWS, item=item) | {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": "*"}}
    with pytest.raises(DataError, match="odd.item, line 3: column 'price' holds 'dear', no number"):
        LazySequenceDataset(make_config("IBIM", "odd", **keys))


def test_numbers_are_read_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    texts = [repr(float(x)) for x in rng.normal(size=3000) * 10.0 ** rng.integers(-30, 30, 3000)]
    (tmp_path / "x").write_text("a\tb\n" + "".join(f"{t}\tq\n" for t in texts))
    frame = atomic_file.read_plain(tmp_path / "x", {"a": False, "b": True}, "\t", None)
    assert frame["a"].tolist() == [float(t) for t in texts]


def test_blocks_of_a_file_share_their_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_file, "_BYTES_AT_ONCE", 200)
    rows = lines(2000)
    (tmp_path / "x").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    frame = atomic_file.read_plain(tmp_path / "x", {"user_id:token": True, "shop:token": True}, "\t", None)
    assert frame["user_id:token"].astype(object).tolist() == [row.split("\t")[0] for row in rows]
    shops = [row.split("\t")[4] for row in rows]
    found = frame["shop:token"].astype(object).tolist()
    assert [x for x in found if isinstance(x, str)] == [s for s in shops if s not in ("", "NA", "null")]
    assert len(frame) == 2000


def test_samplers_are_made_where_something_is_sampled_and_only_there(make_config):
    idle, _, _ = assembly.loaders(make_config("IBIM"))
    assert idle._sampler is None
    sampled = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    busy, _, _ = assembly.loaders(make_config("BPR", train_neg_sample_args=sampled))
    assert busy._sampler is not None
    mode = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni5"}
    _, valid, _ = assembly.loaders(make_config("IBIM", eval_args=mode))
    assert valid._sampler is not None


def test_the_text_of_items_is_in_the_encoding_of_the_data(tmp_path):
    path = tmp_path / "x.item"
    path.write_bytes("item_id:token\ttitle:token_seq\ni1\tplain\ni2\tcrème\n".encode("latin-1"))
    assert read_item_text(path, "item_id", ["title"], encoding="latin-1") == {"i1": "plain", "i2": "crème"}
    with pytest.raises(DataError, match=r"x\.item, line 3: byte \d+ of the file is not utf-8.*--encoding=latin-1"):
        read_item_text(path, "item_id", ["title"])


def test_an_item_with_two_texts_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "x.item"
    path.write_text("item_id:token\ttitle:token_seq\ni1\tone\ni1\tone\ni1\ttwo\n")
    with pytest.raises(DataError, match="line 4: item 'i1' appears twice, with different texts. Keep one line"):
        read_item_text(path, "item_id", ["title"])

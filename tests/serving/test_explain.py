"""Reasons: the interest that won, the nearest items of the history, the sentence of eq. 8, and what it is worth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from recbole_eimf.cli.recommend import _answer_text
from recbole_eimf.model.score_prior import PARTS, ScorePrior
from recbole_eimf.serving.answer import Ranked
from recbole_eimf.serving.catalogue import Catalogue
from recbole_eimf.serving.counts import Counts
from recbole_eimf.serving.explain import honesty, means_more, reasons, said_of
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.http.answers import recommended
from recbole_eimf.serving.http.board import State
from recbole_eimf.serving.http.schema import RecommendRequest
from recbole_eimf.serving.http.service import Served
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.sentences import Sentences, history_text
from recbole_eimf.serving.title_map import TitleMap


@pytest.fixture
def words():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    weights = {name: torch.randn(4, 4) for name in ("query", "key", "value")} | {"projection": torch.randn(4, 6)}
    texts = [["a", "b"], ["c", "d", "e"], []]
    interests = torch.nn.functional.normalize(torch.randn(3, 3, 6), dim=-1).half()
    histories = torch.nn.functional.normalize(torch.randn(3, 6), dim=-1).half()
    exemplars = pa.array(["u", "v", "w"])
    return Sentences(exemplars, pa.array(texts, pa.list_(pa.string())), interests, mask, histories, weights)


def test_weights_are_those_of_equations_7_and_8(words):
    title = torch.randn(6)
    found = words.weigh(torch.tensor([1, 0]), torch.stack([title, title]))
    assert torch.allclose(found.sum(1), torch.ones(2), atol=1e-6)
    assert found[1, 2] == 0
    w = {name: weight.double().numpy() for name, weight in words.weights.items()}
    h = words.interests[1].double().numpy() @ w["projection"].T
    logits = (h @ w["query"].T) @ (h @ w["key"].T).T / math.sqrt(4)
    attention = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    attended = h + attention @ (h @ w["value"].T)
    scores = attended @ (w["projection"] @ title.double().numpy()) / math.sqrt(4)
    assert np.allclose(found[0].numpy(), np.exp(scores) / np.exp(scores).sum(), atol=1e-4)


def test_exemplars_without_interests_are_never_named(words):
    assert words.answerable.tolist() == [0, 1]
    near = words.nearest(words.histories.float())
    assert near[:2].tolist() == [0, 1]
    assert near[2] in (0, 1)


def test_texts_are_transformed_before_they_are_weighed(words):
    weights = {**words.weights, "projection": torch.randn(4, 5)}
    mean, turn, scale = torch.randn(6).double(), torch.randn(6, 5).double(), torch.tensor(0.3).double()
    given = dataclasses.replace(words, weights={**weights, "mean": mean, "map": turn, "scale": scale})
    moved = lambda text: ((text.double() - mean) @ turn * 0.3).float()  # noqa: E731
    by_hand = dataclasses.replace(words, interests=moved(words.interests), weights=weights)
    titles, exemplar = torch.randn(3, 6), torch.tensor([0, 1, 1])
    assert torch.allclose(given.weigh(exemplar, titles), by_hand.weigh(exemplar, moved(titles)), atol=1e-5)


def test_an_exemplar_whose_history_has_no_text_is_nobodys_nearest(words):
    blank = dataclasses.replace(words, histories=words.histories * torch.tensor([[1], [0], [1]]))
    assert blank.answerable.tolist() == [0]
    assert blank.nearest(-words.histories.float()).tolist() == [0, 0, 0]


def _parts(text: torch.Tensor, words: Sentences) -> Parts:
    items = len(text)
    names = pa.array([f"i{n}" for n in range(items)])
    catalogue = Catalogue(names, names, np.ones(items, dtype=np.int64))
    trained = torch.ones(items, dtype=torch.bool)
    titles = TitleMap(text.half(), trained, torch.ones(1))
    return Parts(catalogue, text=titles, sentences=words)


def test_the_sentence_is_that_of_the_nearest_exemplar_that_weighs_most(exported, words):
    """An item without a title has none, nor has a user whose history has no titles."""
    _, _, model = exported("EIMF", backbone="GRU4Rec")
    parts = model._parts
    text = torch.nn.functional.normalize(torch.randn(len(parts.catalogue), 6), dim=1)
    text[[0, 5, 7]] = 0
    titles = TitleMap(text.half(), torch.ones(len(text), dtype=torch.bool), torch.ones(1))
    parts = dataclasses.replace(parts, text=titles, sentences=words)
    rows, items = [[1, 2, 3], [5, 7], [4, 9]], np.array([[1, 5, 8, 0], [1, 2, 3, 4], [6, 7, 8, 9]])
    empty = np.zeros(3, dtype=bool)
    frame = reasons(parts, rows, Ranked(items, items.astype(np.float32), empty, empty.astype(int)))
    said = iter(frame[["sentence", "sentence_weight"]].itertuples(index=False))
    named = set()
    for history, recommended_items in zip(rows, items):
        own = titles.text[history].float().sum(0).numpy()
        near = max((0, 1), key=lambda e: own @ words.histories[e].float().numpy())
        for item in recommended_items[recommended_items > 0]:
            sentence, weight = next(said)
            if not own.any() or not text[item].any():
                assert sentence is None
                assert np.isnan(weight)
                continue
            weights = words.weigh(torch.tensor([near]), titles.text[[item]].float())[0]
            assert weight == pytest.approx(weights.max().item(), abs=1e-6)
            assert sentence == words.texts[near].as_py()[int(weights.argmax())]
            named.add((near, sentence))
    assert next(said, None) is None
    assert len(named) > 1
    plain = reasons(dataclasses.replace(parts, sentences=None), rows, Ranked(items, items, empty, empty))
    assert "sentence" not in plain


@pytest.mark.parametrize("meaning", [1.0, 0.5])
def test_honesty_is_one_for_true_names_and_a_half_for_names_without_meaning(meaning):
    """Two kinds of things: exemplars' sentences name their own kind, or say nothing of any."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=60)
    axes = torch.eye(6)
    text = torch.nn.functional.normalize(axes[kind] + 0.05 * torch.from_numpy(rng.normal(size=(60, 6))).float(), dim=1)
    text[0] = 0
    said = torch.stack([axes[0], axes[1]]) if meaning == 1.0 else torch.stack([axes[4], axes[4]])
    weights = dict.fromkeys(("query", "key", "value"), torch.zeros(4, 4)) | {"projection": torch.randn(4, 6)}
    texts = pa.array([["first"], ["second"]], pa.list_(pa.string()))
    words = Sentences(
        pa.array(["u", "v"]), texts, said[:, None].half(), torch.ones(2, 1).bool(), axes[:2].half(), weights
    )
    histories = [[int(i) for i in np.flatnonzero(kind == u % 2) if i][:5] for u in range(40)]
    rows = np.array([rng.choice(np.flatnonzero(kind[1:] == u % 2) + 1, 4, replace=False) for u in range(40)])
    nobody = np.zeros(40, dtype=bool)
    found = honesty(_parts(text, words), histories, Ranked(rows, rows.astype(np.float32), nobody, nobody.astype(int)))
    assert found["pairs"] == 160
    assert found["users"] == 40
    assert found["better"] == pytest.approx(meaning, abs=0.02)  # stored in half precision, a few titles tie


def test_honesty_is_what_loops_over_pairs_and_titles_find(words):
    draw = torch.Generator().manual_seed(2)
    text = torch.nn.functional.normalize(torch.randn(40, 6, generator=draw), dim=1).half().float()
    text[[0, 3, 9, 14]] = 0
    text[20:30] = text[30:40]  # what has the same title ranks neither above nor below
    histories = torch.randint(1, 40, (12, 4), generator=draw).tolist()
    histories[5] = [3, 9]
    items = torch.randint(0, 40, (12, 6), generator=draw).numpy()
    nobody = np.zeros(12, dtype=bool)
    found = honesty(_parts(text, words), histories, Ranked(items, items, nobody, nobody))
    titles = [row for row in range(40) if text[row].any()]

    def rank(exemplar, item):
        chosen = int(words.weigh(torch.tensor([exemplar]), text[[item]]).argmax())
        likeness = text.double() @ words.interests[exemplar, chosen].double()
        return sum(float(likeness[row]) > float(likeness[item]) + 1e-6 for row in titles)

    shares, pairs = [], 0
    for history, row in zip(histories, items.tolist()):
        own = text[history].sum(0)
        mine = [item for item in row if item in titles and own.any()]
        near, other = sorted((0, 1), key=lambda e, own=own: -float(own @ words.histories[e].float()))
        ranks = [(rank(near, item), rank(other, item)) for item in mine]
        pairs += len(ranks)
        shares += [np.mean([(a < b) + (a == b) / 2 for a, b in ranks])] if ranks else []
    assert (found["pairs"], found["users"]) == (pairs, len(shares)) == (pairs, 11)
    assert found["better"] == pytest.approx(np.mean(shares))
    assert found["error"] == pytest.approx(np.std(shares, ddof=1) / 11**0.5)


def test_the_text_of_a_history_is_of_unit_length_or_nothing():
    text = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).half()
    assert history_text(text, [1, 2, 2]).tolist() == pytest.approx([3 / 73**0.5, 8 / 73**0.5])
    assert history_text(text, [0]).tolist() == [0, 0]


def test_the_items_of_a_history_that_count_most_for_an_item_are_its_reasons(exported):
    _, _, model = exported("DecayedItemKNN")
    history = ["i1", "i2", "i3", "i4", "i9"]
    frame = model.recommend([history], 5, explain=True)
    alone = torch.tensor([[model.catalogue.row_of[one]] for one in history])
    floor = model._parts.counts
    counts = floor._counted(alone, torch.ones(5, dtype=torch.long)).numpy()  # what each item says by itself
    counts *= floor.keys["knn_decay"] ** np.arange(4, -1, -1)[:, None]  # so many steps back
    names = [f"thing number {one[1:]}" for one in history]
    for row in frame.to_dict("records"):
        says = dict(zip(names, counts[:, model.catalogue.row_of[row["item"]]]))
        assert max(says.values()) > 0
        most = [value for value in sorted(says.values(), reverse=True)[:2] if value > 0]
        assert [says[why] for why in row["because"]] == most


def test_of_nothing_that_could_be_compared_nothing_is_said(words):
    text = torch.nn.functional.normalize(torch.randn(5, 6), dim=1)
    text[[0, 4]] = 0
    items, none = np.array([[2, 3]]), np.zeros(1, dtype=bool)
    found = Ranked(items, items.astype(np.float32), none, none.astype(int))
    nothing = {"better": None, "error": None, "pairs": 0, "users": 0}
    assert honesty(_parts(text, words), [[4]], found) == nothing, "a history without titles"
    assert honesty(_parts(text, words), [[1]], found)["pairs"] == 2
    alone = dataclasses.replace(words, mask=words.mask & torch.tensor([[True], [False], [False]]))
    assert honesty(_parts(text, alone), [[1]], found) == nothing, "there is no other exemplar"


def test_the_number_is_put_into_words():
    known = {"error": 0.01, "pairs": 1000, "users": 100, "llm_used": True, "source": "file"}
    assert "more than a placebo's" in said_of({**known, "better": 0.6})
    assert "in 60.0 % of 1,000 cases (± 2.0; 50 % is chance)" in said_of({**known, "better": 0.6})
    assert "no more than a placebo's" in said_of({**known, "better": 0.51})
    assert "keywords of titles; no LLM" in said_of({**known, "better": 0.6, "llm_used": False})
    assert said_of(None) is None
    assert said_of({**known, "better": None}) is None


@pytest.mark.parametrize(
    ("better", "expected"), [(0.6, True), (0.525, True), (0.52, False), (0.51, False), (0.3, False), (None, None)]
)
def test_a_name_means_something_only_beyond_two_standard_errors(better, expected):
    known = {"better": better, "error": 0.01, "pairs": 1000, "users": 100, "llm_used": True}
    assert means_more(known) is expected
    assert means_more(None) is None
    if expected is not None:
        assert ("none of them is a reason" in said_of(known)) is not expected


@pytest.mark.parametrize(("better", "doubted"), [(0.51, True), (0.7, False)])
def test_the_command_and_the_service_say_what_a_sentence_is_worth(exported, better, doubted):
    _, _, model = exported("EIMF", backbone="SASRec")
    known = {"better": better, "error": 0.01, "pairs": 1000, "users": 100, "llm_used": True, "source": "file"}
    model.config["text"] = {"explain": known}
    frame = model.recommend([["i1", "i2"]], 2, explain=True)
    attrs = frame.attrs
    frame["sentence"] = "hair care"
    frame.attrs = attrs
    said = _answer_text(model, ["i1", "i2"], frame)
    assert said.endswith(said_of(known))
    assert ("(no better than a placebo's): hair care" in said) is doubted
    assert "an LLM says of users like this one" in said
    every = _answer_text(model, ["i1", "i2"], model.recommend([["i1", "i2"]], 60, exclude_seen=False))
    marked = [line.split()[1] for line in every.splitlines() if line.endswith("(in the history)")]
    assert sorted(marked) == ["i1", "i2"]
    answer = recommended(Served(model, State(1, "model", "1")), RecommendRequest(history=["i1"], explain=True))
    assert answer["means_more"] is not doubted
    assert answer["honesty"] == said_of(known)


@pytest.mark.parametrize(
    ("source", "llm_used", "who"),
    [
        ("file", True, "an LLM says"),
        ("keywords", False, "keywords, no LLM,"),
        ("shop.words:of_users", False, "a function of the trainer's own says"),
        ("own", False, "a function of the trainer's own says"),
    ],
)
def test_whose_sentences_are_said_is_told_by_where_they_come_from(exported, source, llm_used, who):
    _, _, model = exported("EIMF", backbone="SASRec")
    known = {"better": 0.6, "error": 0.01, "pairs": 1000, "users": 100, "llm_used": llm_used, "source": source}
    if source == "own":  # read from a file, which says who wrote it
        known |= {"source": "file", "made_by": "own"}
    model.config["text"] = {"explain": known}
    frame = model.recommend([["i1", "i2"]], 2, explain=True).assign(sentence="hair care")
    assert f"{who} of users like this one: hair care" in _answer_text(model, ["i1", "i2"], frame)
    answer = recommended(Served(model, State(1, "model", "1")), RecommendRequest(history=["i1"], explain=True))
    assert answer["said_by"] == who
    assert ("no LLM" in answer["honesty"]) == (source == "keywords")
    assert ("a function of the trainer's own" in answer["honesty"]) == ("own" in who)


def test_nearest_items_of_the_history_are_named_but_not_the_item_itself(exported):
    _, _, model = exported("EIMF", backbone="REMI")
    history = ["i1", "i2", "i3", "i4", "i2"]
    frame = model.recommend([history, []], 60, explain=True, exclude_seen=False)
    vectors = model._parts.vectors
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    interests = torch.from_numpy(model.interests([history])[0])
    for row in frame[frame["user"] == 0].to_dict("records"):
        item = model.catalogue.row_of[row["item"]]
        assert row["interest"] == int((interests @ vectors[item]).argmax())
        others = [i for i in dict.fromkeys(history) if i != row["item"]]
        near = sorted(others, key=lambda i: -float(unit[model.catalogue.row_of[i]] @ unit[item]))[:2]
        assert row["because"] == [f"thing number {i[1:]}" for i in near]
    assert all(reason == [] for reason in frame[frame["user"] == 1]["because"])


def _counting(model, matrix=None, **keys):
    """Parts of a floor over items 1 to 5."""
    popularity = torch.tensor([0.0, 9, 7, 5, 3, 1])
    tensors = {"popularity": popularity}
    if matrix is not None:
        rows = sparse.csr_matrix(np.array(matrix, dtype=np.float32))
        names = {"row_pointer": rows.indptr.astype(np.int64), "column": rows.indices.astype(np.int64)}
        tensors |= {name: torch.from_numpy(array) for name, array in {**names, "value": rows.data}.items()}
    tokens = pa.array(["[PAD]", *"abcde"])
    counts = Counts(model, 6, {"MAX_ITEM_LIST_LENGTH": 3, **keys}, tensors)
    return Parts(Catalogue(tokens, tokens, popularity.numpy().astype(np.int64)), counts=counts)


def _because(parts, history, items):
    found = Ranked(np.array([items]), np.ones((1, len(items)), np.float32), np.array([False]), np.zeros(1, int), True)
    return reasons(parts, [history], found)["because"].tolist()


def test_a_floor_names_the_items_whose_counts_speak_for_the_recommended_one():
    assert _because(_counting("Popularity"), [3, 4], [1, 2]) == [[], []], "it reads no history"
    matrix = np.zeros((6, 6))
    matrix[5, 1], matrix[4, 2] = 2, 8
    assert _because(_counting("Markov", matrix), [4, 5], [1, 2, 3]) == [["e"], [], []], "the last item alone"
    matrix[4, 1], matrix[3, 1] = 3, 99
    near = _counting("DecayedItemKNN", matrix, knn_decay=0.5)
    # e adds 2, d adds 3 / 2 before it, c stands too far back; d alone adds to b
    assert _because(near, [3, 2, 4, 5], [1, 2, 3]) == [["e", "d"], ["d"], []]
    assert _because(near, [4, 4, 5], [1]) == [["d", "e"]], "twice: 3 / 2 + 3 / 4"


def _told(net):
    """A prior of known texts and arrows: i3 and i9 are named for i1 most, i4 names i2, i6 is like i2."""
    prior = net.prior
    prior.weight.copy_(torch.tensor([2.0, 3.0, 4.0, 8.0]))
    prior.text = torch.zeros(net.n_items, 2)
    prior.text[[2, 6]] = torch.tensor([1.0, 0.0])
    prior.text[7] = torch.tensor([-1.0, 0.0])
    prior.index = torch.tensor([[1, 2, 4, 1, 2], [3, 3, 2, 9, 9]])
    prior.value = torch.tensor([1.0, 0.1, 1.0, 0.4, 0.25])
    prior.together_index, prior.together_value = torch.tensor([[1], [8]]), torch.tensor([0.25])


def test_what_a_score_prior_adds_most_for_is_named(exported):
    _, _, model = exported("IBIM", _told, backbone="GRU4Rec", score_prior="all", prior_decay=0.5)
    token = [str(item) for item in model.catalogue.tokens.to_pylist()]
    name = model.catalogue.names(list(range(8)))
    history = [token[1], token[2]]
    frame = model.recommend([history, []], 60, explain=True, exclude_seen=False)
    of_one = frame[frame["user"] == 0].set_index("item")["added"]
    assert of_one[token[3]] == f"an LLM says it is bought after {name[1]}"  # 3 * 0.5 * 1, where the latest adds 3 * 0.1
    assert of_one[token[4]] == f"an LLM says {name[2]} is bought after it"
    assert of_one[token[6]] == f"its text is like that of {name[2]}"
    assert of_one[token[8]] == f"it is bought with {name[1]}"
    assert of_one[token[2]] is None, "an item is no reason for itself"
    assert of_one[[token[5], token[7]]].tolist() == [None, None], "nothing is added, or something is taken off"
    assert frame[frame["user"] == 1]["added"].isna().all()
    assert f"          an LLM says it is bought after {name[1]}" in _answer_text(model, history, frame[:59])
    answer = recommended(Served(model, State(1, "model", "1")), RecommendRequest(history=history, explain=True))
    assert {item["added"] for result in answer["results"] for item in result["items"]} <= {*of_one}


def test_a_prior_that_read_a_file_of_shuffled_knowledge_says_it_is_a_placebos(made_run, tmp_path):
    run = made_run("IBIM", _told, backbone="GRU4Rec", score_prior="all", prior_decay=0.5)
    run.result["side_load"] = {"knowledge": {"source": "shuffled file"}}
    folder = write_run(run, tmp_path / "model", index="none", onnx=False, refit=False, text="no", histories=True)
    model = Recommender.load(folder)
    token = [str(item) for item in model.catalogue.tokens.to_pylist()]
    said = model.recommend([[token[1]]], 60, explain=True).set_index("item")["added"][token[3]]
    assert said == f"a placebo says it is bought after {model.catalogue.names([1])[0]}"
    assert model.config["name"] == "GRU4Rec placebo"


def test_what_is_added_counts_every_time_and_what_the_model_reads_alone(exported):
    keys = {"backbone": "GRU4Rec", "score_prior": "all", "prior_decay": 0.5, "MAX_ITEM_LIST_LENGTH": 5}
    _, _, model = exported("IBIM", _told, knowledge_source="shuffled", **keys)
    token = [str(item) for item in model.catalogue.tokens.to_pylist()]
    name = model.catalogue.names(list(range(8)))
    histories = [[token[i] for i in rows] for rows in ([1, 1, 2], [1, 2, 2, 2, 2], [1, 5, 5, 5, 5, 5])]
    frame = model.recommend(histories, 60, explain=True, exclude_seen=False)
    twice, early, gone = (frame[frame["user"] == user].set_index("item")["added"] for user in range(3))
    said = "a placebo says it is bought after {}"
    assert twice[token[9]] == said.format(name[1])  # 3 * 0.4 * (0.25 + 0.5), where the latest adds 3 * 0.25
    assert early[token[3]] == said.format(name[2])  # 3 * 0.1 * 1.875, where the first adds 3 * 0.0625
    assert gone[token[3]] is None, "the model reads the latest five items"
    assert {why for reason in frame[frame["user"] == 2]["because"] for why in reason} == {name[5]}


@pytest.mark.parametrize("by_frequency", [False, True])
def test_what_the_steps_of_a_history_add_is_what_the_prior_adds(by_frequency):
    draw = torch.Generator().manual_seed(0)
    prior = ScorePrior("all", 0.7, None, 12, torch.arange(12) % 5 if by_frequency else None)
    prior.weight.copy_(torch.rand(prior.weight.shape, generator=draw))
    prior.text = torch.randn(12, 3, generator=draw)
    prior.index = torch.randint(1, 12, (2, 40), generator=draw).unique(dim=1)
    prior.value = torch.rand(prior.index.shape[1], generator=draw)
    prior.together_index, prior.together_value = prior.index.flip(0), prior.value.flip(0)
    sequence, items = torch.tensor([3, 8, 3, 5]), torch.tensor([1, 8, 11])
    added = sum(prior.of_steps(part, sequence, items).sum(0) for part in PARTS)
    torch.testing.assert_close(added, prior(sequence[None], torch.tensor([4]))[0, items])

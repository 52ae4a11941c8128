"""Ranking a chunk of items at a time gives what ranking the whole matrix gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.evaluator import chunked
from recbole_eimf.evaluator.collector import hits_and_counts, ranked_items
from recbole_eimf.experiment import assembly
from recbole_eimf.model import products
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.trainer.trainer import InterestTrainer
from tests.evaluator import slow
from tests.evaluator.test_ranking import score_matrices


def dense(table, users, k, history):
    scores = table.clone()
    scores[:, 0] = -torch.inf
    scores[history] = -torch.inf
    return ranked_items(scores, users, k)


@pytest.mark.parametrize("chunk", [7, 64, 128, 1000])
def test_chunks_rank_as_the_whole_matrix_does(chunk):
    dtype = torch.float64 if chunk == 64 else torch.float32
    rng = np.random.default_rng(chunk)
    rows, items = 9, 300
    users = torch.tensor(rng.choice(10_000, rows, replace=False))
    ascending = np.broadcast_to(np.sort(rng.normal(size=items)), (rows, items))
    for table in [*score_matrices((rows, items), rng), ascending, ascending[:, ::-1]]:
        table = torch.tensor(table.copy(), dtype=dtype)
        for barred in (0, 280):
            cells = rng.choice(rows * items, rows * barred, replace=False)
            history = (torch.tensor(cells // items), torch.tensor(cells % items))
            for k in (1, 10, 50, 299, 320):
                found = chunked.ranked_in_chunks(
                    lambda a, b, t=table: t[:, a:b].clone(), items, users, k, chunk, history, dtype
                )
                assert torch.equal(found, dense(table, users, k, history))


def test_chunks_rank_as_a_slow_count_does():
    rng = np.random.default_rng(5)
    table = torch.tensor(rng.integers(0, 6, (6, 90)).astype(np.float32))
    users = torch.tensor([3, 999, 12, 1, 70, 5])
    found = chunked.ranked_in_chunks(lambda a, b: table[:, a:b].clone(), 90, users, 20, 13)
    expected = [slow.ranking(row, user, set())[:20] for user, row in zip(users.tolist(), table.tolist())]
    assert found.tolist() == expected


def test_a_query_scores_the_best_interest_plus_the_bias():
    torch.manual_seed(0)
    asked = products.Query(torch.randn(5, 3, 4), torch.randn(20, 4), torch.randn(20))
    for b in range(5):
        for i in range(20):
            best = max(float(asked.interests[b, k] @ asked.vectors[i]) for k in range(3)) + float(asked.bias[i])
            assert asked.scores(0, 20)[b, i].item() == pytest.approx(best, abs=1e-5)
    assert torch.allclose(asked.scores(7, 15), asked.scores(0, 20)[:, 7:15], atol=1e-5)


def test_hits_and_counts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    items = torch.tensor(np.stack([rng.permutation(30)[:8] for _ in range(50)]))
    items[rng.random(items.shape) < 0.1] = 0
    row, target = torch.tensor(rng.integers(0, 50, 120)), torch.tensor(rng.integers(1, 40, 120))
    for number, line in enumerate(hits_and_counts(items, row, target).tolist()):
        wanted = set(target[row == number].tolist())
        assert line == [int(i in wanted) for i in items[number].tolist()] + [len(wanted)]


@pytest.mark.parametrize(("backbone", "mask"), [("REMI", True), ("BERT4Rec", False)])
def test_a_model_has_the_same_metrics_either_way(make_config, backbone, mask, monkeypatch):
    """On ml-100k, several targets a user; only chunks of scores are made."""
    keys = {"protocol": "user_split", "mask_history": mask, "metrics": ["Recall", "NDCG", "Hit"], "topk": [10, 50],
            "valid_metric": "NDCG@10", "backbone": backbone, "MAX_ITEM_LIST_LENGTH": 20}  # fmt: skip
    widths, scores = [], products.Query.scores
    monkeypatch.setattr(products.Query, "scores", lambda self, a, b: widths.append(b - a) or scores(self, a, b))
    found, ranked = [], []
    for chunk in (0, 100, None):
        config = make_config("IBIM", "ml-100k", eval_chunk_items=chunk, **keys)
        torch.manual_seed(0)
        train, _, test = assembly.loaders(config)
        trainer = InterestTrainer(config, IBIM(config, train._dataset))
        found.append(trainer.evaluate(test, load_best_model=False))
        ranked.append(trainer.evaluator.last.get("rec.items"))
        assert bool(widths) == (chunk == 100)
        assert max(widths, default=0) <= 100
        widths.clear()
    assert found[0] == found[1] == found[2]
    assert 0 < found[0]["recall@50"] < 1
    assert torch.equal(ranked[0], ranked[1])


def test_scores_that_are_no_products_are_taken_whole(make_config):
    class Reversed(IBIM):
        def full_sort_predict(self, interaction):
            return -super().full_sort_predict(interaction)

    config = make_config("IBIM", backbone="SASRec", eval_chunk_items=3)
    train, _, test = assembly.loaders(config)
    found = {}
    for kind in (IBIM, Reversed):
        torch.manual_seed(0)
        model = kind(config, train._dataset)
        trainer = InterestTrainer(config, model)
        trainer.evaluate(test, load_best_model=False)
        found[kind] = trainer.evaluator.last.get("rec.items")
        batch = next(iter(test))[0]
        asked = products.query(model.eval(), batch)
        assert (asked is None) == (kind is Reversed)
    assert not torch.equal(found[IBIM], found[Reversed])
    model.diversity = torch.nn.Identity()
    assert products.query(model, batch) is None


def test_metrics_that_need_all_scores_get_them(make_config, wide):
    config = make_config("IBIM", "wide", data_path=str(wide), metrics=["GAUC", "Recall"], valid_metric="Recall@5",
                         eval_chunk_items=10)  # fmt: skip
    train, _, test = assembly.loaders(config)
    torch.manual_seed(0)
    found = InterestTrainer(config, IBIM(config, train._dataset)).evaluate(test, load_best_model=False)
    assert 0 < found["gauc"] < 1


def test_chunks_are_chosen_by_the_size_of_a_batch():
    cpu = torch.device("cpu")
    assert chunked.chunk_items(None, 1024, 8000, cpu) == 0
    assert 64 <= chunked.chunk_items(None, 1024, 300_000, cpu) <= 4096
    assert chunked.chunk_items(None, 64, 2_000_000, cpu) == 4096  # by users: as many scores whatever the catalogue
    assert chunked.chunk_items(None, 1 << 20, 300_000, cpu) == 256
    assert chunked.chunk_items(0, 1024, 300_000, cpu) == 0
    assert chunked.chunk_items(500, 1, 10, cpu) == 500


def test_a_negative_chunk_is_an_error(make_config):
    with pytest.raises(ConfigError, match="eval_chunk_items=-1"):
        make_config("IBIM", eval_chunk_items=-1)

"""Backbones and models of a user's own that break the contract: an error in a line that names them, before an epoch."""

from __future__ import annotations

import re

import pytest
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.model.backbones.backbone import Backbone, CausalBackbone, try_out
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.model.item_table import ItemTable

HERE = "tests.test_own_classes"
QUICK = {
    "epochs": 1,
    "show_progress": False,
    "state": "INFO",
    "compare_with": [],
    "topk": [5],
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@5",
    "MAX_ITEM_LIST_LENGTH": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
}


class Mean(Backbone):
    """A backbone as it should be."""

    view = "prefix"

    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        self.item_embedding = make_table(8, 0)
        self.layer = nn.Linear(8, 8)

    def interests(self, item_seq, item_seq_len):
        return self.layer(self.item_embedding(item_seq).sum(1) / item_seq_len[:, None])[:, None]


class Flat(Mean):
    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len)[:, 0]


class Narrow(Mean):
    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len)[..., :5]


class Double(Mean):
    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len).double()


class Silent(Mean):
    def interests(self, item_seq, item_seq_len):
        super().interests(item_seq, item_seq_len)


class NotANumber(Mean):
    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len) / (item_seq_len - item_seq_len)[:, None, None]


class OneArgument(Mean):
    def interests(self, item_seq):
        return super().interests(item_seq, (item_seq != 0).sum(1))


class Unfinished(Backbone):
    view = "prefix"

    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        self.item_embedding = make_table(8, 0)


class OwnItems(Mean):
    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config, dataset, make_table)
        self.item_embedding = nn.Embedding(dataset.item_num, 8)


class Wish(Mean):
    view = "prefixes"


class NotCausal(Mean):
    view = "sequence"


class LastAlone(CausalBackbone):
    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        self.item_embedding = make_table(8, 0)

    def positions(self, item_seq):
        return self.item_embedding(item_seq)[:, -1]


class Late(Mean):
    def interests(self, item_seq, item_seq_len):
        if not hasattr(self, "late"):
            self.late = nn.Linear(8, 8)
        return self.late(super().interests(item_seq, item_seq_len))


class Draws(Mean):
    """Draws when it is asked, as dropout of one's own may."""

    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len) + 0 * torch.rand(1)


class Broken(Mean):
    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config, dataset, make_table)
        self.rate = config["my_rate"] * 2


class Keeps(Mean):
    def get_extra_state(self):
        return {"since": 2020}

    def set_extra_state(self, state) -> None:
        """Nothing to do."""


def run(planted, model="IBIM", **keys):
    return recbole_eimf.run(model, "planted", data_path=str(planted), **{**QUICK, **keys})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Flat", r"interests\(item_seq \[2, 8\], item_seq_len \[2\]\) gave float32 \[2, 8\]; .* \[2, K, 8\] is needed"),
        ("Narrow", r"gave float32 \[2, 1, 5\]; a tensor of float32 \[2, K, 8\]"),
        ("Double", r"gave float64 \[2, 1, 8\]"),
        ("Silent", "gave a NoneType"),
        ("NotANumber", "gave numbers that are not finite"),
        ("OneArgument", "raised TypeError: .*takes 2 positional arguments but 3 were given"),
        ("Unfinished", r"interests\(.*\) is not defined\. Define it"),
        ("OwnItems", r"item_embedding is of type Embedding\..* = make_table\(dimension, 0\)"),
        ("Wish", r"says view = 'prefixes'\. Did you mean 'prefix'"),
        ("NotCausal", r'positions\(item_seq \[2, 8\]\) is not defined\..* or say view = "prefix"'),
        ("LastAlone", r"gave float32 \[2, 1\]; .* \[2, K, 8\] is needed"),
        ("Late", r"parameters late\.bias, late\.weight come to be with the first batch.*in __init__"),
        ("Keeps", r"state_dict\(\)\['backbone._extra_state'\] is a dict"),
    ],
)
def test_a_backbone_that_breaks_the_contract_is_refused_before_it_is_trained(planted, monkeypatch, name, words):
    monkeypatch.setattr(IBIM, "calculate_loss", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=f"backbone={HERE}:{name}.*{words}" if name != "Keeps" else words):
        run(planted, backbone=f"{HERE}:{name}")


def test_trying_a_backbone_out_draws_nothing_that_a_run_would_draw():
    config = {"ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "length",
              "MAX_ITEM_LIST_LENGTH": 8}  # fmt: skip
    made = Draws(config, None, lambda dimension, extra: ItemTable(5, dimension, ItemSettings(), extra_rows=extra))
    before = torch.get_rng_state()
    try_out("mine:Draws", made)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.training


class Loss(IBIM):
    """Gives what ``kind`` says in place of a loss."""

    def calculate_loss(self, interaction):
        loss = super().calculate_loss(interaction)
        return {"none": None, "number": 1.0, "vector": loss * torch.ones(3), "mapping": {"loss": loss},
                "detached": loss.detach(), "pair": (loss, 0.5), "nothing": ()}[KIND]  # fmt: skip


KIND = "none"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "gave a NoneType; a tensor of one number is needed, or a tuple of such"),
        ("number", "gave a float"),
        ("vector", r"gave a tensor of \[3\]"),
        ("mapping", "gave a dict"),
        ("pair", "gave a float in a tuple"),
        ("detached", r"gave a loss without a gradient.* \.detach\(\)"),
        ("nothing", "gave an empty tuple"),
    ],
)
def test_a_loss_that_cannot_be_trained_is_named(planted, monkeypatch, kind, words):
    monkeypatch.setitem(globals(), "KIND", kind)
    with pytest.raises(UserError, match=f"model=Loss: calculate_loss {words}"):
        run(planted, f"{HERE}:Loss", backbone="ComiRecSA")


class NaNScores(IBIM):
    def full_sort_predict(self, interaction):
        return super().full_sort_predict(interaction) * float("nan")


class NaNStates(IBIM):
    def interests(self, item_seq, item_seq_len):
        return super().interests(item_seq, item_seq_len) * float("nan")


class RaisesLate(IBIM):
    def full_sort_predict(self, interaction):
        raise LookupError("no lexicon")


@pytest.mark.parametrize(("name", "chunk"), [("NaNScores", 0), ("NaNStates", 3)])
def test_scores_that_rank_nothing_are_an_error(planted, name, chunk):
    """The metrics were those of a model that misses every target."""
    with pytest.raises(UserError, match=r"users of a batch of evaluation are not numbers \(NaN\)"):
        run(planted, f"{HERE}:{name}", backbone="ComiRecSA", eval_chunk_items=chunk)


@pytest.mark.parametrize(
    ("key", "name", "words"),
    [("model", "RaisesLate", "LookupError: no lexicon"), ("backbone", "Broken", "TypeError: .*")],
)
def test_what_ones_own_class_raises_is_a_line_with_its_place(planted, tmp_path, capsys, key, name, words):
    """On the command line; who calls Python has the error itself."""
    keys = {"model": "IBIM", "backbone": "ComiRecSA", **QUICK, key: f"{HERE}:{name}", "data_path": planted,
            "output_dir": tmp_path / "out"}  # fmt: skip
    assert main(["run", "--dataset=planted", *(f"--{key}={value}" for key, value in keys.items())]) == 2
    said = capsys.readouterr().err
    place = r"\(.*test_own_classes\.py, line \d+\)"
    assert re.search(rf"error: .*{key}={HERE}:{name}.*: the run raised {words} {place}", said)
    assert "Traceback" not in said
    assert "Traceback" in (tmp_path / "out" / "run.log").read_text()
    with pytest.raises((LookupError, TypeError)):
        run(planted, **{"model": "IBIM", "backbone": "ComiRecSA", key: f"{HERE}:{name}"})


def test_what_a_callback_raises_is_the_callers(planted):
    def stop(epoch, score):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        run(planted, backbone=f"{HERE}:Mean", callback=stop)


class Unsaid(SequentialRecommender):
    """A model that says nothing of how it learns."""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Mean", f"Mean is not a model but a backbone. Give --model=IBIM --backbone={HERE}:Mean"),
        ("QUICK", "QUICK is a dict; a class is needed"),
        ("Unsaid", "model=Unsaid: does not say how it learns. Add --loss_type=CE"),
    ],
)
def test_a_class_that_is_no_model_is_refused(make_config, name, words):
    with pytest.raises(ConfigError, match=words):
        make_config(f"{HERE}:{name}")

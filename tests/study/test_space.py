"""Search spaces: forms, errors, draws, and the shipped files."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
from recbole.utils.argument_list import training_arguments

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.key import keys_of
from recbole_eimf.config.keys import ItemSettings, SemanticSettings
from recbole_eimf.config.layers import properties_folder
from recbole_eimf.config.same_experiment import unread
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.study.search import tune
from recbole_eimf.study.search.space import (
    Dimension,
    draw_settings,
    fitted,
    identity,
    read_space,
    shipped_space,
    text_ways,
)

BACKBONES = sorted(path.stem for path in (properties_folder() / "backbone").glob("*.yaml"))


def written(folder, text, name="space.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("learning_rate: 0.1", "not a range"),
        ("learning_rate: {unifrom: [1, 2]}", "Did you mean 'uniform'"),
        ("learning_rate: {log: [0, 2]}", "above 0"),
        ("reg_weight: {log: [0, 2]}", "log: [0, 2] needs bounds above 0"),
        ("learning_rate: {uniform: [2, 1]}", "lower and a higher number"),
        ("learning_rate: {uniform: [1, 2, 3]}", "lower and a higher number"),
        ("n_layers: {int: [2, 2]}", "lower and a higher whole number"),
        ("learning_rate: {uniform: [a, b]}", "lower and a higher number"),
        ("n_layers: {int: [1, 2.5]}", "whole number"),
        ("item_text: {choice: []}", "nothing to choose"),
        ("item_text: {choice: add}", "not a list"),
        ("learning_rat: {log: [1, 2]}", "Did you mean 'learning_rate'"),
        ("beta: {rest: [0.5, 0.1]}", "a number and the key"),
        ("beta: {rest: [0.5, alpha]}", "'alpha' is not a key"),
        ("beta: {rest: [0.5, beta]}", "'beta' is not a key"),
        ("beta: {rest: [.nan, alpha]}", "a number and the key"),
        ("beta: {rest: [true, alpha]}", "a number and the key"),
        ("n_layers: {uniform: [1, 3]}", "n_layers: uniform: n_layers takes whole numbers. Write int or choice."),
        ("learning_rate: {choice: [0.1, abc]}", "learning_rate: learning_rate='abc': allowed is"),
        ("hidden_dropout_prob: {uniform: [0.1, 1.7]}", "hidden_dropout_prob=1.7: allowed is"),
        ("reg_weight: {uniform: [0, .inf]}", "lower and a higher number"),
    ],
)
def test_a_bad_entry_is_an_error_that_names_file_and_key(tmp_path, line, told):
    with pytest.raises(ConfigError) as caught:
        read_space(written(tmp_path, line))
    for part in ("space.yaml", line.split(":")[0], told):
        assert part in str(caught.value)


def test_draws_keep_to_their_range_and_law():
    generator = np.random.default_rng(0)
    log = np.array([Dimension("log", (1e-4, 1e-2)).draw(generator) for _ in range(4000)])
    assert log.min() >= 1e-4
    assert log.max() <= 1e-2
    # uniform in the logarithm: half of the draws below the geometric mean, a quarter below the first quarter
    assert np.mean(log < 1e-3) == pytest.approx(0.5, abs=0.04)
    assert np.mean(log < 10**-3.5) == pytest.approx(0.25, abs=0.04)
    even = np.array([Dimension("uniform", (0.0, 4.0)).draw(generator) for _ in range(4000)])
    assert np.mean(even < 1) == pytest.approx(0.25, abs=0.04)
    narrow = [Dimension("uniform", (0.123451, 0.123459)).draw(generator) for _ in range(50)]
    assert 0.123451 <= min(narrow) <= max(narrow) <= 0.123459, "four digits are not enough for these bounds"
    whole = [Dimension("int", (1, 3)).draw(generator) for _ in range(300)]
    assert set(whole) == {1, 2, 3}
    assert {Dimension("choice", ("a", None)).draw(generator) for _ in range(50)} == {"a", None}


def test_more_samples_keep_the_earlier_ones_and_no_two_are_alike():
    space = {"learning_rate": Dimension("log", (1e-4, 1e-2)), "n_layers": Dimension("int", (1, 2))}
    first = {"learning_rate": 0.001, "n_layers": 2}
    few, many = draw_settings(space, 5, 7, first), draw_settings(space, 12, 7, first)
    assert few[0] == first
    assert many[:5] == few
    assert draw_settings(space, 5, 8, first)[1:] != few[1:]
    small = {"n_layers": Dimension("int", (1, 3))}
    drawn = draw_settings(small, 20, 0, {"n_layers": 2})
    assert sorted(d["n_layers"] for d in drawn) == [1, 2, 3]


def test_settings_are_the_same_in_whatever_order_they_stand():
    assert identity({"n_layers": 1, "beta": 0.5}) == identity({"beta": 0.5, "n_layers": 1})
    assert identity({"n_layers": 1, "beta": 0.5}) != identity({"beta": 1, "n_layers": 0.5})


def test_what_another_search_found_takes_the_place_of_one_draw():
    space = {"learning_rate": Dimension("log", (1e-4, 1e-2)), "n_layers": Dimension("int", (1, 2))}
    first, second = {"learning_rate": 0.001, "n_layers": 2}, {"learning_rate": 0.005, "n_layers": 1}
    plain, begun = draw_settings(space, 5, 7, first), draw_settings(space, 5, 7, first, second)
    assert begun[:2] == [first, second]
    assert begun[2:] == plain[2:]
    assert draw_settings(space, 5, 7, first, dict(first)) == plain  # which is tried anyway
    assert draw_settings(space, 1, 7, first, second) == [first]


def test_two_keys_that_share_a_sum():
    """EIMF's alpha + beta = 0.5 (eq. 12), in every trial, and where one of them is given."""
    space = shipped_space("EIMF", "SASRec", "paper")
    assert set(space) == {"gamma", "alpha", "beta", "preference"}
    assert space["preference"].values == (-2.0, -3.0, -4.0, -5.0, -7.0, -10.0)
    base = EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper"})
    drawn = draw_settings(space, 12, 0, {key: base[key] for key in space})
    assert len({settings["alpha"] for settings in drawn}) == 12
    for settings in drawn:
        assert settings["alpha"] + settings["beta"] == pytest.approx(0.5, abs=1e-4)
        assert list(settings) == list(space)
        EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper", **settings})
    for fixed, other in (("alpha", "beta"), ("beta", "alpha")):
        left = fitted(space, {fixed: 0.2}, {**dict(base.final_config_dict), fixed: 0.2})
        assert fixed not in left
        assert left[other] == Dimension("choice", (0.3,))
    assert set(fitted(space, {"alpha": 0.4, "beta": 0.1}, base)) == {"gamma", "preference"}
    assert set(shipped_space("EIMF", "SASRec", "strong")) > {"gamma", "alpha", "learning_rate"}


@pytest.mark.parametrize(
    ("given", "searched"),
    [({}, True), ({"interest_source": "file", "interest_file": "f.jsonl"}, False), ({"exemplar_ratio": 0.05}, False),
     ({"interest_source": "shuffled", "interest_file": "f.jsonl"}, False), ({"interest_source": "shuffled"}, True)],
)  # fmt: skip
def test_the_preference_is_searched_where_it_says_what_exemplars_there_are(given, searched, capsys):
    space = tune._space(None, EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper", **given}), given)
    assert ("preference" in space) is searched
    assert ("not searched" in capsys.readouterr().out) is not searched


def test_recboles_hyper_files_are_read(tmp_path):
    lines = "learning_rate loguniform -8,0\nn_layers choice [1,2]\nhidden_dropout_prob uniform 0,0.5\n"
    space = read_space(written(tmp_path, lines + "attn_dropout_prob quniform 0,0.5,0.25\n", "SASRec.hyper"))
    assert space["learning_rate"] == Dimension("log", (math.exp(-8), 1.0))
    assert space["n_layers"] == Dimension("choice", (1, 2))
    assert space["hidden_dropout_prob"] == Dimension("uniform", (0, 0.5))
    assert space["attn_dropout_prob"] == Dimension("choice", (0.0, 0.25, 0.5))
    tenths = read_space(written(tmp_path, "hidden_dropout_prob quniform 0,0.3,0.1\n", "tenths.hyper"))
    assert tenths["hidden_dropout_prob"].values == (0.0, 0.1, 0.2, 0.3), "0.3 / 0.1 is below 3 in floating point"
    with pytest.raises(ConfigError, match="line 4: key 'n_layers' is given twice"):
        read_space(written(tmp_path, lines + "n_layers choice [3]\n", "twice.hyper"))
    with pytest.raises(ConfigError, match="line 1.*its bounds are natural logarithms"):
        read_space(written(tmp_path, "learning_rate loguniform 256,4096\n", "plain.hyper"))
    for bad in ("learning_rate choise [1]", "learning_rate", "n_layers quniform 3,1,1"):
        with pytest.raises(ConfigError, match="line 1"):
            read_space(written(tmp_path, bad, "bad.hyper"))


def _cases():
    files = (properties_folder() / "tune").glob("*.yaml")
    alone = [p.stem for p in files if p.stem not in ("network", "EIMF") and "-" not in p.stem]
    own = [(name, None) for name in sorted(alone) if name not in ("SASRec", "BERT4Rec", "GRU4Rec", "Caser")]
    return own + [(model, backbone) for model in ("IBIM", "EIMF") for backbone in BACKBONES]


@pytest.mark.parametrize(("model", "backbone"), _cases())
def test_every_shipped_space_is_of_keys_the_model_has(model, backbone):
    given = {"backbone": backbone} if backbone else {}
    base = EIMFConfig(model, "ml-100k", None, given)
    named = getattr(base.model_class, "backbone_name", None)
    space = shipped_space(model, named(base) if named else None)
    assert len(space) >= 3
    if backbone:
        assert set(read_space(properties_folder() / "tune" / f"{backbone}.yaml")) < set(space)
    assert [key for key in space if key not in base.final_config_dict] == []
    for settings in draw_settings(space, 4, 0, {key: base[key] for key in space}):
        EIMFConfig(model, "ml-100k", None, {**given, **settings})


@pytest.mark.parametrize(
    ("keys", "own"),
    [
        ({}, set()),
        ({"item_text": "add"}, {"text_whitening"}),
        ({"item_text": "concat"}, {"text_whitening"}),
        ({"item_text": "add", "text_adaptor": "moe"}, {"text_whitening", "adaptor_experts", "adaptor_dropout"}),
        ({"item_text": "null_space"}, {"id_dimension"}),
        ({"item_text": "null_space", "text_adaptor": "moe"}, {"id_dimension"}),  # which reads no adaptor
        ({"item_text": "codes"}, {"code_pieces", "code_centroids"}),
    ],
)
@pytest.mark.parametrize("model", ["IBIM", "EIMF"])
def test_a_backbone_with_text_is_searched_over_the_keys_of_its_way(model, keys, own):
    """As EIMF is over its weights; what all rows have is drawn the same in each."""
    base = EIMFConfig(model, "ml-100k", None, keys)
    alone = shipped_space(model, "SASRec")
    space = shipped_space(model, "SASRec", None, text_ways(base))
    assert set(space) - set(alone) == own
    assert list(space)[: len(alone)] == list(alone)
    drawn = draw_settings(space, 4, 0, {key: base[key] for key in space})
    for settings in drawn:
        EIMFConfig(model, "ml-100k", None, {**keys, **settings})
    plain = draw_settings(alone, 4, 0, {key: base[key] for key in alone})
    assert [{key: one[key] for key in alone} for one in drawn] == plain


def test_a_search_takes_the_space_of_its_way_of_text_but_for_what_is_given(capsys):
    base = EIMFConfig("IBIM", "ml-100k", None, {"item_text": "codes", "code_pieces": 8})
    space = tune._space(None, base, {"item_text": "codes", "code_pieces": 8})
    assert "code_centroids" in space
    assert "code_pieces" not in space
    assert "not searched, because given: code_pieces" in capsys.readouterr().out


def test_every_way_of_text_has_a_space():
    ways = {path.stem for path in (properties_folder() / "tune").glob("item_text-*.yaml")}
    known = get_args(get_type_hints(ItemSettings)["item_text"])
    assert ways == {f"item_text-{way}" for way in known if way != "none"}


def test_every_model_that_learns_settings_has_a_space():
    from recbole_eimf.config.models import MODELS

    counting = {"Popularity", "Markov", "TextKNN", "NextKNN"}  # one setting at most: nothing to search together
    assert set(shipped_space("IBIM", "SASRec")) > {"score", "train_batch_size", "learning_rate"}  # a backbone alone
    for model in set(MODELS) - counting - {"IBIM"}:
        assert (properties_folder() / "tune" / f"{model}.yaml").is_file(), model
    with pytest.raises(UserError, match="Markov.*--space"):
        shipped_space("Markov", None)


def test_what_every_network_is_searched_with_is_the_same_in_every_row():
    """Of rows of one table none may lack what another finds its gain by; but a recipe's form stays as it is."""
    shared = {"score", "train_batch_size"}
    for model in ("IBIM", "EIMF", "PAD", "CTRL", "MoRec", "Hybrid", "LLMESR", "ProfileDistillation"):
        assert set(shipped_space(model, "SASRec")) > {*shared, "learning_rate"}, model
    assert set(shipped_space("EIMF", "SASRec", "strong")) > shared
    assert set(shipped_space("PAD", "SASRec", "published")) == {"gamma"}  # the rest is what PAD published
    assert not {"gate_total", "text_whitening"} & set(shipped_space("PAD", "SASRec", "summed"))
    assert set(shipped_space("PAD", "SASRec", "strong")) > {*shared, "gate_total", "learning_rate"}
    assert not set(shipped_space("IBIM", "ComiRecSA", "paper")) & {"learning_rate", "weight_decay", *shared}
    with pytest.raises(ConfigError, match="recipe=published fixes all that is searched of EIMF"):
        shipped_space("EIMF", "SASRec", "published")
    assert not set(shipped_space("SASRec", "SASRec")) & shared  # RecBole's has no such key
    first = [draw_settings(shipped_space(model, "SASRec"), 5, 7, {}) for model in ("IBIM", "EIMF", "PAD")]
    for one, *others in zip(*first):
        assert all(one.items() <= other.items() for other in others)  # and they are tried with the same values


@pytest.mark.parametrize(("model", "backbone"), _cases())
def test_every_key_of_a_shipped_space_is_read(model, backbone, make_config, monkeypatch):
    """A key that nobody reads would be searched for nothing: watch what one training batch asks the configuration.

    Nor does it ask for a key that counts as not read by the model when two runs are held to be the same.
    """
    from recbole_eimf.experiment import assembly

    config = make_config(model, **({"backbone": backbone} if backbone else {}))
    not_read = unread(config) - {*training_arguments}  # loaders ask for those of a model that only counts, too
    asked = {"train_batch_size", "learning_rate", "weight_decay"}  # RecBole's loaders and trainer
    original = type(config).__getitem__

    def watched(self, key):
        asked.add(key)
        return original(self, key)

    monkeypatch.setattr(type(config), "__getitem__", watched)
    train, *_ = assembly.loaders(config)
    net = config.model_class(config, train._dataset)
    if hasattr(net, "backbone_name"):
        net.calculate_loss(next(iter(train)))
    named = getattr(config.model_class, "backbone_name", None)
    space = shipped_space(model, named(config) if named else None)
    # dataclasses of settings read their keys whether they matter or not; a backbone's own are read one by one
    assert set(space) - asked == set()
    if "text_encoder" not in not_read:  # text and interests are one part of settings to whoever reads either
        not_read -= {each.name for each in keys_of(SemanticSettings)}
    assert asked & not_read == set()

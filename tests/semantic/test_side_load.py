"""Text and interests in RecBole's ids, looked up by token: a shift by one would train on somebody else's interests."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment import assembly
from recbole_eimf.semantic import side_load
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.side_load import corpus_of, exchange_of, load_side_information, pipeline_of
from tests.conftest import TITLES, planted_sequences, write_atomic

INTERESTS = {"u3": ["nail polish", "nail file", "glitter"], "u5": ["hair dryer"], "u60": ["hair brush", "shampoo"]}


@pytest.fixture
def loaded(make_config, tmp_path):
    """(configuration, training part, the assignment given) of side-loaded replies of three users."""
    users = len(planted_sequences())
    given = {f"u{u}": list(INTERESTS)[u % 3] for u in range(users) if u % 10}
    replies = [{"user_id": user, "response": json.dumps(dict(enumerate(texts)))} for user, texts in INTERESTS.items()]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    lines = [f"{user},{exemplar}" for user, exemplar in given.items()]
    (tmp_path / "assignment.csv").write_text("\n".join(["user_id,exemplar_user_id", *lines]) + "\n")
    config = make_config(
        "EIMF", interest_source="file", interest_file=str(tmp_path / "replies.jsonl"),
        assignment_file=str(tmp_path / "assignment.csv"),
    )  # fmt: skip
    return config, assembly.loaders(config)[0]._dataset, given


def test_every_user_has_the_interests_of_its_own_exemplar(loaded):
    config, train, given = loaded
    side, tokens = train.side, train.field2id_token["user_id"]
    pipeline = pipeline_of(config, train)
    assert side.user_exemplar.shape == (train.user_num,)
    assert side.user_exemplar[0] == -1, "padding is nobody"
    for user in range(1, train.user_num):
        exemplar = int(side.user_exemplar[user])
        assert (exemplar >= 0) == (tokens[user] in given)
        if exemplar < 0:
            continue
        texts = INTERESTS[given[tokens[user]]]
        assert side.interest_mask[exemplar].tolist() == [True] * len(texts) + [False] * (3 - len(texts))
        vectors = torch.from_numpy(pipeline.encoder.encode(texts))
        assert torch.allclose(side.interests[exemplar, : len(texts)], vectors, atol=1e-6)
        assert not side.interests[exemplar, len(texts) :].any()
    assert len(set(side.user_exemplar.tolist())) == 4
    assert side.report["training_users_with_interests"] == len(given)


def test_every_item_has_the_count_of_its_own_token(loaded):
    config, train, _ = loaded
    tokens = train.field2id_token["item_id"]
    counts = Counter(tokens[i] for history in train.sequences()[1] for i in history)
    assert exchange_of(config, train).popularity == {token: counts[token] for token in tokens[1:]}


def test_every_item_has_the_text_of_its_own_token(loaded, make_config, tmp_path):
    config, train, _ = loaded
    pipeline = pipeline_of(config, train)
    tokens = train.field2id_token["item_id"]
    assert not train.side.item_has_text[0]
    assert not train.side.item_text[0].any()
    for item in range(1, train.item_num):
        vector = torch.from_numpy(pipeline.encoder.encode([TITLES[int(tokens[item][1:])]])[0])
        assert train.side.item_has_text[item]
        assert torch.allclose(train.side.item_text[item], vector, atol=1e-6)

    write_atomic(tmp_path, "partly", planted_sequences(40), [*TITLES[:3], "", *TITLES[4:]])
    partly = make_config("EIMF", "partly", data_path=str(tmp_path))
    train = assembly.loaders(partly)[0]._dataset
    without = train.field2token_id["item_id"]["i3"]
    assert (~train.side.item_has_text).nonzero().squeeze(1).tolist() == [0, without]
    assert not train.side.item_text[without].any()
    assert train.side.report["items_with_text"] == train.side.report["items"] - 1 == 9


def test_the_corpus_is_the_training_part_oldest_first(loaded):
    config, train, _ = loaded
    corpus = corpus_of(config, train)
    assert isinstance(corpus, Corpus)
    for user, history in zip(corpus.users, corpus.histories):
        whole = planted_sequences()[int(user[1:])]
        assert [int(item[1:]) for item in history] == whole[:-2]
    assert corpus.item_text == {f"i{i}": title for i, title in enumerate(TITLES)}


def test_an_assignment_of_other_users_is_refused(loaded, tmp_path):
    config, train, _ = loaded
    (tmp_path / "assignment.csv").write_text("user_id,exemplar_user_id\nsomebody,u3\n")
    with pytest.raises(ConfigError, match="interest_source=file: no training user has interests"):
        load_side_information(config, train, interests=True)


def test_a_source_that_cannot_deliver_stops_before_text_is_encoded(make_config, tmp_path):
    keys = {"interest_source": "file", "interest_file": "gone.jsonl", "semantic_cache": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="gone.jsonl"):
        assembly.loaders(make_config("EIMF", **keys))
    assert not (tmp_path / "cache").exists()


def test_what_follows_an_item_is_the_mean_of_its_phrases_at_a_text_s_length():
    phrases = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = side_load._means([[], [0, 1], [1]], phrases)
    assert torch.allclose(found, torch.tensor([[0.0, 0.0], [0.5**0.5, 0.5**0.5], [0.0, 1.0]]))

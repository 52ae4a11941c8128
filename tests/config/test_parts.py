"""Settings of encoder, clustering and LLM client: names, defaults and ranges are the catalogue's."""

import dataclasses

import pytest

from recbole_eimf.config.keys import SemanticSettings, our_keys
from recbole_eimf.config.parts import part_of
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.semantic.clustering.cluster_solver import ClusterSettings
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
from recbole_eimf.semantic.llm.endpoint import OpenAISettings


@pytest.mark.parametrize("part", [EncoderSettings, ClusterSettings, OpenAISettings])
def test_a_part_has_the_catalogues_defaults(part):
    made, alone = part_of(part, SemanticSettings()), part()
    assert made == alone
    tied = {field.name: field.metadata["key"] for field in dataclasses.fields(part) if "key" in field.metadata}
    assert len(tied) >= 5
    for name, key in tied.items():
        assert getattr(alone, name) == our_keys()[key].default


def test_a_bad_value_is_named_as_it_is_typed():
    with pytest.raises(ConfigError, match="llm_concurrency=0: allowed is a whole number, at least 1"):
        OpenAISettings(concurrency=0)
    with pytest.raises(ConfigError, match="text_batch_size=0"):
        part_of(EncoderSettings, SemanticSettings(text_batch_size=0))
    with pytest.raises(ConfigError, match="cluster_neighbours='many'"):
        ClusterSettings(neighbours="many")

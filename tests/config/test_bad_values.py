"""Values that no run can honour are refused before any work, under the name a user types."""

from collections import Counter

import pytest

from recbole_eimf.__main__ import run_command
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.dataset import LazySequenceDataset
from tests.config.bad_values import bad_values

SMALL = {"text_encoder": "tfidf-svd", "MAX_ITEM_LIST_LENGTH": "8", "hidden_size": "16", "embedding_size": "16",
         "inner_size": "32", "topk": "[1,3,5]", "valid_metric": "NDCG@5", "compare_with": "[]"}  # fmt: skip


def fate(model, beside, key, value, planted):
    """None if a value is refused as it should be, else what happened."""
    words = {**SMALL, "data_path": str(planted), **beside, key: value}
    try:
        given = parse_command_line(f"--{name}={word}" for name, word in words.items())
        EIMFConfig(model, "planted", None, given)
    except ConfigError as error:
        return None if key in str(error) else f"{model} {key}={value}: not named in: {error}"
    except Exception as error:
        return f"{model} {key}={value}: {type(error).__name__}: {error}"
    return f"{model} {key}={value}: swallowed"


def test_every_bad_value_is_refused_by_name(planted):
    cases = list(bad_values())
    assert len(cases) >= 310
    assert not [case for case, times in Counter(map(repr, cases)).items() if times > 1]
    left = [found for case in cases if (found := fate(*case, planted))]
    assert left == []


def test_refused_on_the_command_line_before_the_data_are_read(planted, capsys, monkeypatch):
    monkeypatch.setattr(LazySequenceDataset, "_load_data", lambda *_: pytest.fail("data were read"))
    for words in (["--tau=0"], ["--max_interests=0"], ["--model=REMI", "--interest_num=three"],
                  ["--resume=True", "--overwrite=True"], ["--model=SASRec", "--backbone=GRU4Rec"],
                  ["--valid_metric=Recall@7"], ["--seeds=5"]):  # fmt: skip
        assert run_command(["--dataset=planted", f"--data_path={planted}", *words]) == 2
        shown = capsys.readouterr().err
        assert words[-1].partition("=")[0].removeprefix("--") in shown
        assert "Traceback" not in shown

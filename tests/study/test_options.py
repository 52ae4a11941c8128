"""tune, compare and study take every option in both spellings, and say in one line what they do not know."""

import pytest

from recbole_eimf.cli.options import table_parser
from recbole_eimf.cli.tune import _parser
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study import compare, jobs


@pytest.mark.parametrize("parser", [_parser(), table_parser("compare"), table_parser("study")])
def test_every_option_has_both_spellings(parser):
    long = {action.dest: set(action.option_strings) for action in parser._actions if "_" in action.dest}
    assert {"ray_address", "config_files"} <= set(long)
    for name, spellings in long.items():
        assert spellings == {f"--{name}", f"--{name.replace('_', '-')}"}, name


def test_a_value_of_another_type_is_a_line_that_names_the_option():
    for word in ("--max-epochs=many", "--max_epochs=many"):
        with pytest.raises(ConfigError, match="max-epochs.*many.*recbole_eimf tune --help"):
            _parser().parse_args([word])


def test_a_job_takes_a_gpu_where_there_is_one_and_sees_those_that_it_was_lent(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compare.Effort().workers.gpus == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert compare.Effort().workers.gpus == 1
    assert compare.Effort(gpus_per_run=0).workers.gpus == 0
    assert jobs.on_lent_gpus({"epochs": 1, "gpu_id": "1"}, True) == {"epochs": 1}, "what Ray shows, by whatever name"
    assert jobs.on_lent_gpus({"epochs": 1}, False) == {"epochs": 1, "gpu_id": "-1"}

"""``torch_compile``: the encoder goes through the compiler, and says the same."""

import pytest
import torch

from recbole_eimf import quick_start
from recbole_eimf.errors import ConfigError
from recbole_eimf.trainer.trainer import compile_encoders


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec"])
def test_a_compiled_encoder_scores_the_same(make_config, backbone):
    config = make_config("IBIM", backbone=backbone, use_gpu=False)
    _, valid, _ = quick_start._loaders(config)
    net = config.model_class(config, valid._dataset).eval()
    batch = next(iter(valid))[0]
    expected, names = net.full_sort_predict(batch), list(net.state_dict())
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_encoders(net, backend=backend)
    assert torch.allclose(net.full_sort_predict(batch), expected, atol=1e-6)
    assert graphs
    assert list(net.state_dict()) == names


def test_a_model_without_an_encoder_is_refused(planted):
    with pytest.raises(ConfigError, match="torch_compile=True: .* no transformer"):
        quick_start.run(
            "REMI", "planted", data_path=str(planted), torch_compile=True, show_progress=False, state="ERROR"
        )

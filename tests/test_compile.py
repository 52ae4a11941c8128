"""``torch_compile``: the encoder goes through the compiler, and says the same."""

import pytest
import torch
from recbole.model.layers import TransformerEncoder
from recbole.utils import get_model

import recbole_eimf
from recbole_eimf.config.models import BACKBONES
from recbole_eimf.config.stock_needs import lacks_encoder
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.backbones.backbone import backbone_class
from recbole_eimf.trainer.trainer import compile_encoders


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec"])
def test_a_compiled_encoder_scores_the_same(make_config, backbone):
    config = make_config("IBIM", backbone=backbone, use_gpu=False)
    _, valid, _ = assembly.loaders(config)
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


def test_a_backbone_without_an_encoder_is_refused_before_anything_is_read(planted):
    keys = {"torch_compile": True, "show_progress": False, "state": "ERROR", "compare_with": []}
    for model, more in (("REMI", {}), ("EIMF", {"backbone": "GRU4Rec"})):
        with pytest.raises(
            ConfigError, match="torch_compile=True: backbone=.* no transformer.*; SASRec, BERT4Rec, .*have"
        ):
            recbole_eimf.run(model, "nowhere", data_path=str(planted.parent / "nowhere"), **keys, **more)


def test_a_model_of_recbole_without_an_encoder_is_refused_before_anything_is_read(planted):
    keys = {"torch_compile": True, "show_progress": False, "state": "ERROR"}
    with pytest.raises(ConfigError, match="torch_compile=True: NPE has no transformer"):
        recbole_eimf.run("NPE", "nowhere", data_path=str(planted.parent / "nowhere"), **keys)


def test_a_built_model_without_an_encoder_is_refused():
    """What its class did not tell: RecBole's CORE with dnn_type=ave, and models of others."""
    with pytest.raises(ConfigError, match="torch_compile=True: Linear has no transformer"):
        compile_encoders(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("SASRec", 0), ("CORE", 0), ("FDSA", 0), ("S3Rec", 0), ("LightSANs", 1), ("FEARec", 1), ("Pop", 1)],
)
def test_a_model_of_recbole_says_by_its_module_whether_it_has_an_encoder(name, lacks):
    stock = get_model(name)
    assert lacks_encoder(stock) == bool(lacks)
    assert not lacks_encoder(type("Mine", (stock,), {})), "a subclass of the user's may have one"


def test_every_backbone_says_rightly_whether_it_has_an_encoder(make_config):
    for name in BACKBONES:
        config = make_config("IBIM", backbone=name)
        train, _, _ = assembly.loaders(config)
        net = config.model_class(config, train._dataset)
        found = any(isinstance(module, TransformerEncoder) for module in net.modules())
        assert backbone_class(name).has_transformer == found, name

"""Lists of layers travel as JSON: every kind comes back, and what strangers write is bounded."""

import json

import pytest
import torch
from toy_layer import LayerNorm

from zoo_datasets.errors import SpecError
from zoo_datasets.networks import layers as package
from zoo_datasets.networks.architectures import ARCHITECTURES
from zoo_datasets.networks.layers import (
    KINDS,
    Activate,
    AddRemembered,
    AveragePool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Module,
    Remember,
    Residual,
    Shift,
    Sine,
)
from zoo_datasets.networks.layers.documents import MAX_LAYERS, layers_from_json, layers_to_json
from zoo_datasets.networks.module import Network

SAMPLES = (
    Conv("conv", 4, 6, 3, stride=2, padding=1, bias=False),
    Linear("fc", 4, 6),
    BatchNorm("bn", 4),
    MaxPool(3),
    AveragePool(3),
    GlobalAveragePool(),
    Activate("silu"),
    Sine(10.0),
    Shift(0.5),
    Dropout(),
    Flatten(),
    Residual((Conv("inner", 4, 4, 3, padding=1),), (BatchNorm("short", 4),)),
    Remember("kept"),
    AddRemembered("start"),
)


def there_and_back(layers):
    return layers_from_json(json.loads(json.dumps(layers_to_json(layers))))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_come_back(name):
    layers = ARCHITECTURES[name].layers(3, 10)
    assert there_and_back(layers) == layers


@pytest.mark.parametrize("layer", SAMPLES, ids=lambda layer: type(layer).__name__)
def test_each_kind_comes_back(layer):
    assert (*map(type, SAMPLES), Module) == KINDS  # which stands alone: tests/test_modules.py
    layers = (Remember("start"), layer, Linear("last", 4, 2))
    assert there_and_back(layers) == layers
    assert there_and_back((Residual(layers[:2], layers[2:]),))[0].body == layers[:2]


def test_a_kind_of_its_own_needs_no_more_than_its_entry(monkeypatch):
    layers = (Linear("fc1", 4, 6), LayerNorm("norm", 6))
    with pytest.raises(SpecError, match="no kind of layer named 'layer_norm'; did you mean"):
        layers_to_json(layers)
    monkeypatch.setattr(package, "KINDS", (*KINDS, LayerNorm))
    assert layers_to_json(layers)[1] == {"layer_norm": {"name": "norm", "features": 6}}
    assert there_and_back(layers) == layers


def test_what_has_its_default_is_not_written():
    written = layers_to_json((Conv("conv1", 1, 8, 3, stride=2), MaxPool(), MaxPool(3)))
    conv = {"name": "conv1", "in_channels": 1, "out_channels": 8, "kernel": 3, "stride": 2}
    assert written == [{"conv": conv}, "max_pool", {"max_pool": {"kernel": 3}}]


LINEAR = {"name": "fc", "in_features": 4, "out_features": 2}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("conv", "layers: expected a list of layers, found 'conv'"),
        ([["conv"]], r"layers\[0\]: expected the name of a kind"),
        (["__class__"], "no kind of layer named '__class__'"),
        ([{"convv": {}}], r"layers\[0\]: there is no kind of layer named 'convv'; did you mean conv"),
        ([{"conv": LINEAR}], r"layers\[0\] \(conv\) has no field 'in_features'; its fields are name, in_channels"),
        ([{"linear": {"name": "fc"}}], "lacks in_features"),
        ([{"linear": LINEAR | {"out_features": 0}}], r"\(linear\).out_features: .*greater than or equal to 1, found 0"),
        ([{"linear": LINEAR | {"out_features": True}}], "out_features: .*integer, found True"),
        ([{"linear": LINEAR | {"name": 7}}], "name: .*string, found 7"),
        ([{"linear": LINEAR | {"name": "forward"}}], "'forward': a name that modules use themselves"),
        ([{"linear": LINEAR | {"name": "dropout0"}}], "'dropout0': a name that modules use themselves"),
        ([{"linear": LINEAR | {"name": "../a"}}], "no name of a module"),
        ([{"linear": LINEAR}, {"linear": LINEAR}], "'fc.weight' stands in it twice"),
        ([{"linear": LINEAR}, {"linear": LINEAR | {"name": "fc.weight"}}], "no module can be made"),
        ([{"linear": LINEAR | {"in_features": 1 << 30}}], "layers of 2,147,483,650 weights"),
        (["activate"], "layers of 0 weights"),
        (["activate"] * (MAX_LAYERS + 1), "at most 4,096 layers"),
        ([{"residual": {"body": ["flatten"] * 3000, "shortcut": ["flatten"] * 3000}}], "at most 4,096 layers"),
    ],
)
def test_what_is_no_network_is_refused_on_one_line(value, message):
    with pytest.raises(SpecError, match=message) as refused:
        layers_from_json(value)
    assert len(str(refused.value)) < 400


def test_depth_is_bounded():
    value = [{"linear": LINEAR}]
    for _ in range(60):
        value = [{"residual": {"body": value}}]
    with pytest.raises(SpecError, match="nested at most 16 deep"):
        layers_from_json(value)


def test_the_module_is_the_same():
    layers = ARCHITECTURES["cnn_s"].layers(1, 10)
    images = torch.rand(2, 1, 28, 28)
    torch.manual_seed(0)
    first, second = Network(layers), Network(there_and_back(layers))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))

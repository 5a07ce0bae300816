"""One value says what a network is; what follows from it is what the public functions give."""

import pickle

import pytest

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.networks.architectures import get_architecture, layout_of
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind


def test_a_kind_gives_what_the_functions_give():
    kind = NetworkKind.on("cnn_s", get_image_spec("mnist"))
    assert kind == NetworkKind.of_row({"classes": 10, "in_channels": 1, "architecture": "cnn_s", "epoch": 3})
    assert tuple(kind.columns()) == KIND_COLUMNS
    assert kind.layers == get_architecture("cnn_s").layers(1, 10)
    assert kind.layout == layout_of("cnn_s", 1, 10)
    assert kind.layout is kind.layout
    module = kind.module("gelu", dropout=0.25)
    assert {name: tensor.shape for name, tensor in module.state_dict().items()} == {
        spec.name: spec.shape for spec in kind.layout.tensors
    }
    assert module.dropout0.p == 0.25


def test_a_kind_travels_and_counts_as_one_value_whatever_was_asked_of_it():
    kind = NetworkKind("resnet18", 3, 10)
    assert kind.layout.size
    copy = pickle.loads(pickle.dumps(kind))
    assert len({kind, copy, NetworkKind("resnet18", 3, 10)}) == 1
    assert copy.layers == kind.layers


def test_a_kind_that_there_is_not_can_be_read_but_not_made():
    with pytest.raises(UnknownNameError, match="cnn_s"):
        list(NetworkKind("cnn_ss", 1, 10).layers)
    with pytest.raises(SpecError, match="in_channels=0: expected a whole number from 1"):
        NetworkKind("cnn_s", 0, 10).layout.to_list()
    with pytest.raises(SpecError, match="classes=2.5"):
        NetworkKind("cnn_s", 1, 2.5).module()

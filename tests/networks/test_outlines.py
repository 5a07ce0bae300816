"""Outlines of a user's own networks: completed for images, or refused by the place that is wrong."""

import pytest
import torch

from zoo_datasets.documents import parse_yaml
from zoo_datasets.errors import SpecError
from zoo_datasets.networks.architectures import ARCHITECTURES
from zoo_datasets.networks.layers import BatchNorm, Conv, Linear, flat_layers
from zoo_datasets.networks.layers.documents import layers_to_json
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.outlines import check_outline, complete

CNN_S = """
- conv: {out: 8, kernel: 5}
- max_pool
- activate
- dropout
- conv: {out: 6, kernel: 5}
- max_pool: 2
- activate:
- dropout: {}
- conv: {out: 4, kernel: 2}
- activate
- flatten
- linear: 20
- activate
- dropout
- linear: classes
"""
RESIDUAL = """
- conv: {out: 8, kernel: 3, stride: 2, padding: 1, bias: false}
- batch_norm
- activate
- residual: [conv: {out: 8, kernel: 3, padding: 1}, batch_norm, activate, conv: {out: 8, kernel: 3, padding: 1}]
- residual:
    body: [conv: {out: 16, kernel: 3, stride: 2, padding: 1, name: conv1}]
    shortcut: [conv: {out_channels: 16, kernel: 1, stride: 2}]
- global_average_pool
- linear: {out: classes}
"""


def test_an_outline_of_ours_is_the_architecture():
    assert complete(parse_yaml(CNN_S), 3, 7, 28) == ARCHITECTURES["cnn_s"].layers(3, 7)


def test_inputs_and_names_follow_through_blocks_and_given_names():
    layers = complete(parse_yaml(RESIDUAL), 3, 10, 32)
    weighted = [layer for layer in flat_layers(layers) if isinstance(layer, (Conv, BatchNorm, Linear))]
    names = ["conv2", "bn1", "conv3", "bn2", "conv4", "conv1", "conv5", "fc1"]
    assert [layer.name for layer in weighted] == names
    assert [layer.inputs() for layer in weighted] == [3, 8, 8, 8, 8, 8, 8, 16]
    assert Network(layers)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_what_was_completed_is_an_outline_too():
    layers = complete(parse_yaml(RESIDUAL), 3, 10, 32)
    assert complete(layers_to_json(layers), 3, 10, 32) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- conv: {out: 8}", r"layers\[0\] \(conv\) lacks kernel"),
        ("- conv: {out: 8, kernel: 3, widht: 2}", "has no field 'widht'; its fields are name, in_channels"),
        ("- conv: {out: 8, out_channels: 9, kernel: 3}", "out_channels is given twice"),
        ("- conv: {out: 8, kernel: 3, name: training}", "'training': a name that modules use themselves"),
        ("- flatten: 3", r"\(flatten\): it has no fields, found 3"),
        ("- linaer: classes", "no kind of layer named 'linaer'; did you mean linear"),
        ("flatten", "expected a list of layers, found 'flatten'"),
        ("- residual: [conv: {out: 8, kernle: 3}]", r"layers\[0\].body\[0\] \(conv\) has no field 'kernle'"),
    ],
)
def test_what_is_no_outline_is_refused_before_there_are_images(text, message):
    for refuse in (check_outline, lambda outline: complete(outline, 1, 10, 28)):
        with pytest.raises(SpecError, match=message):
            refuse(parse_yaml(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- conv: {out: 8, kernel: 40}",
            r"\(conv\) does not fit the images \[1, 28, 28\] that .*Kernel size",
        ),
        ("- linear: classes", r"\(linear\) does not fit the images \[1, 28, 28\]"),
        ("- global_average_pool\n- conv: {out: 3, kernel: 1}", r"\(conv\) does not fit the vectors \[1\]"),
        ("- residual: [conv: {out: 3, kernel: 3}]", r"\(residual\) does not fit"),
        ("- residual: [conv: {out: 3, kernel: 3, padding: 1}]", r"gives \[3, 28, 28\], its shortcut \[1, 28, 28\]"),
        ("- flatten\n- linear: 7", r"the last one gives \[7\], expected \[10\]"),
        ("[]", r"the last one gives \[1, 28, 28\], expected \[10\]"),
        ("- flatten\n- linear: 900000000\n- linear: classes", "weights: expected 1 to"),
        ("- flatten\n- linear: {out: classes, name: a}\n- linear: {out: classes, name: a}", "stands in it twice"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(text, message):
    check_outline(parse_yaml(text))
    with pytest.raises(SpecError, match=message):
        complete(parse_yaml(text), 1, 10, 28)

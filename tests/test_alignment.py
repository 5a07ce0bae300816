"""Alignment: a permuted copy is found exactly, one hidden layer is matched as well as can be; lines are measured."""

import itertools

import pytest
import torch
from datasets import Dataset
from plain import tiny_images, tiny_zoo

import zoo_datasets as zd
from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.evaluation.report.lines import between
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers, siren_layers
from zoo_datasets.networks.layers import Activate, Flatten, Linear, build_layout
from zoo_datasets.networks.module import Network
from zoo_datasets.symmetries import permute

LAYERS = {
    "cnn_s": get_architecture("cnn_s").layers(1, 10),
    "small_cnn": get_architecture("small_cnn").layers(1, 10),
    "siren": siren_layers((2, 16, 16, 1), shift=0.5),
    "resnet": resnet18_layers(3)(1, 10),
}


def weights_of(layers, rows, seed=0):
    layout = build_layout(layers)
    weights = 0.3 * torch.randn(rows, layout.size, generator=torch.Generator().manual_seed(seed))
    for name, where in layout.slices().items():
        if name.endswith("running_var"):
            weights[:, where] = weights[:, where].abs() + 0.5
    return weights


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_permuted_copy_is_aligned_back_exactly(name, method):
    layers = LAYERS[name]
    a = weights_of(layers, 3)
    b = permute(a, layers, torch.Generator().manual_seed(1))
    inputs = torch.randn(20, 2) if name == "siren" else torch.randn(6, 1, 28, 28)
    assert not torch.equal(a, b)
    options = {} if method == "weights" else {"activation": "tanh", "inputs": inputs}
    assert torch.equal(zd.align(a, b, layers, method=method, **options), a)
    assert torch.equal(zd.align(a[0], b[0], layers, method=method, **options), a[0])


def test_one_hidden_layer_is_matched_as_well_as_can_be():
    layers = (Flatten(), Linear("fc1", 3, 5), Activate(), Linear("fc2", 5, 2))
    a, b = weights_of(layers, 2, seed=2).double()
    layout = build_layout(layers)

    def moved(order):
        state = layout.unflatten(b)
        order = list(order)
        parts = (state["fc1.weight"][order], state["fc1.bias"][order], state["fc2.weight"][:, order], state["fc2.bias"])
        return torch.cat([part.flatten() for part in parts])

    best = max(float(a @ moved(order)) for order in itertools.permutations(range(5)))
    assert float(a @ zd.align(a, b, layers)) == pytest.approx(best, rel=1e-12)


def test_aligned_networks_are_nearer_and_compute_the_same():
    layers = LAYERS["cnn_s"]
    a, b = weights_of(layers, 4), weights_of(layers, 4, seed=1)
    aligned = zd.align(a, b, layers)
    assert ((a - aligned).norm(dim=1) < (a - b).norm(dim=1)).all()
    images = torch.randn(5, 1, 28, 28)
    for row, same in zip(b, aligned, strict=True):
        answers = []
        for weights in (row, same):
            network = Network(layers, "tanh").eval()
            network.load_state_dict(build_layout(layers).unflatten(weights))
            answers.append(network(images))
        torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-5)


def test_trained_networks_have_a_lower_barrier_once_they_are_matched(tmp_path):
    data = tiny_images(train=400, test=200)
    zoo = tiny_zoo(seeds=6, epochs=6)
    run = zd.train_zoo(zoo, tmp_path / "run", data)
    weights = run.cohort(0).weights(6)
    layers, activation = LAYERS[zoo.architecture], zoo.activation[0]
    a, b = weights[:3], weights[3:]
    barriers = {
        "none": zd.loss_barrier(a, b, layers, activation, data),
        "weights": zd.loss_barrier(a, zd.align(a, b, layers), layers, activation, data),
    }
    for line in barriers.values():
        torch.testing.assert_close(line.losses[:, 0], barriers["none"].losses[:, 0])
        assert line.losses.shape == (3, 25)
        assert torch.equal(line.barrier, line.losses.max(dim=1).values - line.losses[:, [0, -1]].mean(dim=1))
    assert barriers["weights"].barrier.mean() < barriers["none"].barrier.mean()
    copy = permute(a, layers)
    assert zd.loss_barrier(a, zd.align(a, copy, layers), layers, activation, data, points=5).barrier.abs().max() < 1e-6
    columns = {"architecture": zoo.architecture, "in_channels": 1, "classes": 10, "activation": activation}
    shown = between(Dataset.from_list([columns] * 6), weights, data)
    assert (shown["pairs"], shown["images"], len(shown["share"])) == (3, 200, 25)
    assert shown["barriers"]["aligned"] < shown["barriers"]["as they are"]
    assert between(Dataset.from_list([columns]), weights[:1], data) is None


def test_what_cannot_be_aligned_is_refused():
    layers = LAYERS["cnn_s"]
    a = weights_of(layers, 2)
    with pytest.raises(LayoutError, match=r"\[2, 2464\] and \[2464\]: expected the same shape"):
        zd.align(a, a[0], layers)
    with pytest.raises(LayoutError, match=r"expected \[2464\] or \[B, 2464\]"):
        zd.align(a[:, 1:], a[:, 1:], layers)
    with pytest.raises(UnknownNameError, match="no method named 'weigths'"):
        zd.align(a, a, layers, method="weigths")
    with pytest.raises(SpecError, match="give activation= and inputs="):
        zd.align(a, a, layers, method="activations")
    with pytest.raises(SpecError, match="at least 2"):
        zd.interpolate(a, a, 1)
    resnet = weights_of(LAYERS["resnet"], 1)
    with pytest.raises(SpecError, match="running_mean is a running statistic"):
        zd.loss_barrier(resnet, resnet, LAYERS["resnet"], "relu", tiny_images(train=10))
    torch.testing.assert_close(zd.interpolate(a[0], a[1], 3), torch.stack([a[0], (a[0] + a[1]) / 2, a[1]]))

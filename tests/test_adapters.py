"""Forms of weights: there and back bit for bit, and what stands where."""

import pytest
import torch
from plain import tiny_images
from torch.nn import functional

from zoo_datasets import adapters
from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.loading.modules import evaluate, to_modules
from zoo_datasets.networks.architectures import layout_of

SMALL = layout_of("cnn_s", 1, 10)


def weights_of(layout, rows=3):
    return torch.randn(rows, layout.size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("names", [["cnn_s"], ["cnn_l"], ["cnn_s", "cnn_m", "resnet18"]])
def test_position_sizes_are_those_of_embeddings(names):
    layouts = [layout_of(name, 3, 10) for name in names]
    tokens = adapters.mix([adapters.to_tokens(torch.zeros(1, layout.size), layout, 64) for layout in layouts])
    sizes = adapters.position_sizes(layouts, 64)
    assert tokens.position_sizes == sizes
    for number, size in enumerate(sizes):
        assert torch.nn.Embedding(size, 2)(tokens.position[:, :, number]).shape == (*tokens.position.shape[:2], 2)
        assert tokens.position[:, :, number].max() == size - 1
    if len(layouts) == 1:
        assert adapters.position_sizes(layouts[0], 64) == sizes
    for bad in ([], layouts):
        with pytest.raises(LayoutError, match="expected at least"):
            adapters.position_sizes(bad, 0 if bad else 64)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("name", ["cnn_s", "cnn_l"])
def test_tokens_come_back(name, size):
    layout = layout_of(name, 3, 10)
    weights = weights_of(layout)
    tokens = adapters.to_tokens(weights, layout, size)
    assert tokens.mask.sum() == weights.numel()
    assert (tokens.values[~tokens.mask] == 0).all()
    assert torch.equal(adapters.from_tokens(tokens.values, layout), weights)


def test_a_token_never_mixes_channels_and_knows_its_place():
    weights = weights_of(SMALL)
    tokens = adapters.to_tokens(weights, SMALL, 20)
    state = SMALL.unflatten(weights)
    # conv1: rows of 25 + 1 numbers, so two tokens for each of 8 channels; then conv2 with 201 numbers a row.
    channel = torch.cat([state["conv1.weight"][:, 1].flatten(1), state["conv1.bias"][:, 1:2]], dim=1)
    assert torch.equal(tokens.values[:, 2], channel[:, :20])
    assert torch.equal(tokens.values[:, 3, :6], channel[:, 20:])
    assert tokens.mask[0, 3].sum() == 6
    assert tokens.position[0, [0, 15, 16, 17]].tolist() == [[0, 0, 0], [15, 0, 15], [16, 1, 0], [17, 1, 1]]


def test_networks_of_different_sizes_mix_as_tokens():
    large = layout_of("cnn_l", 3, 10)
    parts = [weights_of(SMALL, 2), weights_of(large, 3)]
    mixed = adapters.mix([adapters.to_tokens(parts[0], SMALL, 32), adapters.to_tokens(parts[1], large, 32)])
    assert len(mixed.values) == len(mixed.mask) == len(mixed.position) == 5
    assert mixed.mask[:2].sum() == parts[0].numel()
    assert torch.equal(adapters.from_tokens(mixed.values[:2], SMALL), parts[0])
    assert torch.equal(adapters.from_tokens(mixed.values[2:], large), parts[1])
    with pytest.raises(LayoutError, match=r"tokens of \[8, 32\] numbers: expected one size"):
        adapters.mix([adapters.to_tokens(parts[0], SMALL, 8), mixed])


@pytest.mark.parametrize("name", ["cnn_s", "cnn_m", "cnn_l"])
def test_matrices_and_lists_come_back(name):
    layout = layout_of(name, 1, 10)
    weights = weights_of(layout)
    matrices = adapters.to_matrices(weights, layout)
    assert torch.equal(adapters.from_matrices(matrices, layout), weights)
    lists = adapters.to_weight_lists(weights, layout)
    assert [tuple(matrix.shape[:2]) for matrix in lists[0]] == [(3, 1)] * 5
    assert torch.equal(adapters.from_weight_lists(*lists, layout), weights)
    state = layout.unflatten(weights)
    assert torch.equal(lists[0][1][:, 0], state["conv2.weight"])
    assert torch.equal(matrices["fc2"][:, :, -1], state["fc2.bias"])


def test_batch_norm_has_tokens_and_matrices_but_no_lists():
    layout = layout_of("resnet18", 3, 10)
    weights = weights_of(layout, 1)
    matrices = adapters.to_matrices(weights, layout)
    assert matrices["bn1"].shape == (1, 64, 4)
    assert torch.equal(adapters.from_matrices(matrices, layout), weights)
    assert torch.equal(adapters.from_tokens(adapters.to_tokens(weights, layout, 289).values, layout), weights)
    with pytest.raises(LayoutError, match=r"layer 'conv1' holds conv1.weight; lists of weights and biases are for"):
        adapters.to_weight_lists(weights, layout)


def test_what_does_not_fit_is_told():
    with pytest.raises(LayoutError, match=r"weights have shape \[2464\], expected \[B, 2464\]"):
        adapters.to_tokens(torch.zeros(2464), SMALL, 4)
    with pytest.raises(LayoutError, match="got 3 tokens of 32 numbers, expected"):
        adapters.from_tokens(torch.zeros(1, 3, 32), SMALL)
    with pytest.raises(LayoutError, match="layer 'conv1' is missing"):
        adapters.from_matrices({}, SMALL)


def batch_of(rows=5):
    return {
        "weights": weights_of(SMALL, rows) * 0.2, "architecture": ["cnn_s"] * rows, "dropout": torch.zeros(rows),
        "in_channels": torch.ones(rows, dtype=torch.int32), "classes": torch.full((rows,), 10),
        "activation": ["gelu"] * rows, "test_acc": torch.zeros(rows),
    }  # fmt: skip


def test_a_batch_becomes_modules_whose_figures_are_those_of_the_stack():
    batch, data = batch_of(), tiny_images()
    modules = to_modules(batch)
    loss, accuracy = evaluate(batch["weights"], data, "cnn_s", "gelu")
    assert len(modules) == len(loss) == 5
    images = data.normalise(data.test.images)
    for index, module in enumerate(modules):
        with torch.no_grad():
            logits = module(images)
        assert loss[index].item() == pytest.approx(functional.cross_entropy(logits, data.test.labels).item(), rel=1e-5)
        assert accuracy[index].item() == (logits.argmax(1) == data.test.labels).double().mean().item()
    with pytest.raises(SpecError, match="row lacks column 'activation'"):
        to_modules({name: values for name, values in batch.items() if name != "activation"})
    with pytest.raises(LayoutError, match=r"shape \[5, 9\], expected \[B, 2464\] for cnn_s with 1 input channels"):
        evaluate(batch["weights"][:, :9], data, "cnn_s", "gelu")
    with pytest.raises(UnknownNameError, match="no split named 'tst'; did you mean test"):
        evaluate(batch["weights"], data, "cnn_s", "gelu", "tst")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_weight_lists_keep_their_dtype(dtype):
    layout = layout_of("cnn_s", 1, 10)
    weights = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0)).to(dtype)
    back = adapters.from_weight_lists(*adapters.to_weight_lists(weights, layout), layout)
    assert back.dtype == dtype
    assert torch.equal(back, weights)

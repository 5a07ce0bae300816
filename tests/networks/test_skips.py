"""What one layer remembers, another adds: over any layers, of other numbers of channels, in every place that looks."""

import json

import pytest
import torch
from torch.nn import functional

from zoo_datasets.adapters.graphs import from_graphs, to_graphs
from zoo_datasets.errors import LayerError, SpecError
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers import (
    Activate,
    AddRemembered,
    AveragePool,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    Remember,
    Residual,
    build_layout,
)
from zoo_datasets.networks.layers.documents import layers_from_json, layers_to_json
from zoo_datasets.networks.layers.passes import StackedPass, side_by_side
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.outlines import complete
from zoo_datasets.stacked import StackedNetwork
from zoo_datasets.symmetries import canonicalize, flip_signs, permute, rescale

# 4 → 8, with 4 added to it; 8 → 6, to which 8 are added, of which 6 count; the first 4 once more over both.
OVERLAPPING = (
    Conv("a", 2, 4, 3, padding=1), Activate("tanh"), Remember("a"),
    Conv("b", 4, 8, 3, padding=1), AddRemembered("a"), Activate("none"), Remember("b"),
    Conv("c", 8, 6, 1), AddRemembered("b"), Activate("tanh"),
    Conv("d", 6, 5, 3, padding=1), AddRemembered("a"), Activate("none"),
    GlobalAveragePool(), Linear("fc", 5, 3),
)  # fmt: skip


def reference(state, x):
    """The same function, written out."""

    def conv(name, values):
        return functional.conv2d(values, state[f"{name}.weight"], state[f"{name}.bias"], padding="same")

    def added(values, kept):
        count = min(values.shape[1], kept.shape[1])
        values = values.clone()
        values[:, :count] += kept[:, :count]
        return values

    a = torch.tanh(conv("a", x))
    b = added(conv("b", a), a)
    c = torch.tanh(added(conv("c", b), b))
    d = added(conv("d", c), a)
    return d.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def weights_of(layers, count=3):
    return torch.randn(count, build_layout(layers).size, generator=torch.Generator().manual_seed(0)) / 2


def outputs(layers, weights, x):
    """[B, batch, outputs]: of each row by its own module."""
    networks = [Network(layers).eval() for _ in weights]
    for network, row in zip(networks, weights, strict=True):
        network.load_state_dict(build_layout(layers).unflatten(row))
    with torch.no_grad():
        return torch.stack([network(x) for network in networks])


X = torch.randn(4, 2, 7, 7, generator=torch.Generator().manual_seed(1))


def test_modules_and_stacks_add_the_first_channels_of_earlier_outputs():
    weights = weights_of(OVERLAPPING)
    tensors = build_layout(OVERLAPPING).unflatten(weights)
    expected = torch.stack([reference({name: value[row] for name, value in tensors.items()}, X) for row in range(3)])
    torch.testing.assert_close(outputs(OVERLAPPING, weights, X), expected)
    torch.testing.assert_close(StackedNetwork(OVERLAPPING, "relu")(tensors, X), expected)


@pytest.mark.parametrize(("own", "kept"), [(6, 4), (4, 6), (4, 4)])
def test_each_member_of_a_stack_adds_its_own_as_it_would_alone(own, kept):
    images, remembered = torch.randn(3, 5, own, 7, 7), torch.randn(3, 5, kept, 7, 7)
    state = StackedPass({}, 3, torch.relu)
    Remember("a").stacked(side_by_side(remembered), state)
    total = AddRemembered("a").stacked(side_by_side(images), state)
    assert total.is_contiguous(memory_format=torch.channels_last)
    count = min(own, kept)
    images[:, :, :count] += remembered[:, :, :count]
    assert torch.equal(total, side_by_side(images))


def test_only_orders_that_keep_the_function_are_drawn():
    weights = weights_of(OVERLAPPING)
    (group,) = permutations(OVERLAPPING)
    assert (group.channels, group.bounds) == (8, (4, 5, 6))
    expected = outputs(OVERLAPPING, weights, X)
    for changed in (
        permute(weights, OVERLAPPING, torch.Generator().manual_seed(2)),
        canonicalize(weights, OVERLAPPING),
        flip_signs(weights, OVERLAPPING, "tanh", torch.Generator().manual_seed(2)),
    ):
        assert not torch.equal(changed, weights)
        torch.testing.assert_close(outputs(OVERLAPPING, changed, X), expected)
    again = canonicalize(permute(weights, OVERLAPPING), OVERLAPPING)
    torch.testing.assert_close(again, canonicalize(weights, OVERLAPPING))
    # A change of the order across a bound would be another function.
    wrong = weights.clone()
    layout = build_layout(OVERLAPPING)
    for name, axis in (("b.weight", 0), ("b.bias", 0), ("c.weight", 1)):
        tensor = layout.unflatten(wrong)[name]
        tensor.copy_(tensor.flip(axis + 1).clone())
    assert not torch.allclose(outputs(OVERLAPPING, wrong, X), expected, atol=1e-3)


def test_channels_are_scaled_with_those_that_they_are_added_to():
    layers = tuple(Activate("relu") if isinstance(layer, Activate) else layer for layer in OVERLAPPING)
    weights = weights_of(layers)
    changed = rescale(weights, layers, "relu", generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(changed, weights)
    torch.testing.assert_close(outputs(layers, changed, X), outputs(layers, weights, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_any_skips_keep_the_function_under_permutations(seed):
    random = torch.Generator().manual_seed(seed)
    draw = lambda most: int(torch.randint(most, (), generator=random))  # noqa: E731
    widths = [2, *(1 + draw(6) for _ in range(6))]
    layers = []
    for number in range(6):
        layers.append(Conv(f"conv{number}", widths[number], widths[number + 1], 3, padding=1))
        if number and draw(3):
            layers.append(AddRemembered(f"conv{draw(number)}"))
        layers += [Activate("tanh"), Remember(f"conv{number}")]
    layers += [GlobalAveragePool(), Linear("fc", widths[-1], 3)]
    weights = weights_of(layers)
    expected = outputs(layers, weights, X)
    for changed in (permute(weights, layers, random), canonicalize(weights, layers)):
        torch.testing.assert_close(outputs(layers, changed, X), expected)
    torch.testing.assert_close(flip_and_compute(weights, layers, random), expected)


def flip_and_compute(weights, layers, random):
    return outputs(layers, flip_signs(weights, layers, "tanh", random), X)


def test_graphs_have_an_edge_for_each_channel_that_is_added_and_come_back():
    weights = weights_of(OVERLAPPING)
    graphs = to_graphs(weights, OVERLAPPING)
    assert int((graphs.kind == 1).sum()) == 4 + 6 + 4
    # Nodes: 2 inputs, then a, b, c, d: from the first of a to the first of b.
    assert [2, 2 + 4] in graphs.index[:, graphs.kind == 1].T.tolist()
    assert torch.equal(from_graphs(graphs.nodes, graphs.edges, OVERLAPPING), weights)


def test_flattened_images_are_tied_only_where_channels_are_equal():
    layers = (
        Conv("a", 2, 4, 3, padding=1), Activate("relu"), AveragePool(7), Flatten(), Remember("a"),
        Linear("fc1", 4, 4), AddRemembered("a"), Activate("relu"), Linear("fc2", 4, 3),
    )  # fmt: skip
    wide = (
        Conv("a", 2, 2, 3, padding=1), Activate("relu"), AveragePool(3), Flatten(), Remember("a"),
        Linear("fc1", 8, 8), AddRemembered("a"), Activate("relu"), Linear("fc2", 8, 3),
    )  # fmt: skip
    for network in (layers, wide):
        weights = weights_of(network)
        changed = permute(weights, network, torch.Generator().manual_seed(0))
        torch.testing.assert_close(outputs(network, changed, X), outputs(network, weights, X))
    assert [group.channels for group in permutations(layers)] == [4]
    assert permutations(wide) == ()


def test_documents_and_outlines_know_them_and_refuse_what_was_never_remembered():
    value = json.loads(json.dumps(layers_to_json(OVERLAPPING)))
    assert layers_from_json(value) == OVERLAPPING
    outline = [{"conv": {"out": 4, "kernel": 3}}, {"remember": "a"}, {"conv": {"out": 8, "kernel": 1}},
               {"add_remembered": "a"}, "activate", "global_average_pool", {"linear": "classes"}]  # fmt: skip
    assert complete(outline, 1, 10, 9)[3] == AddRemembered("a")
    with pytest.raises(SpecError, match=r"layers\[1\] \(add_remembered\).*nothing was remembered as 'b'"):
        complete([outline[0], {"add_remembered": "b"}, *outline[4:]], 1, 10, 9)
    with pytest.raises(SpecError, match="'b' is added, but not remembered before"):
        layers_from_json([*value[:3], {"add_remembered": {"key": "b"}}, *value[3:]])
    with pytest.raises(SpecError, match="'a' is remembered twice"):
        layers_from_json([*value[:3], {"remember": {"key": "a"}}, *value[3:]])
    with pytest.raises(SpecError, match=r"remember\).*key"):
        layers_from_json([{"remember": {"key": "\x1b[2J"}}, *value])


def test_what_cannot_be_added_is_named():
    strided = (Remember("x"), Conv("a", 2, 2, 3, stride=2), AddRemembered("x"), GlobalAveragePool(), Linear("f", 2, 1))
    with pytest.raises(LayerError, match=r"remembered as 'x' has the shape \[2, 7, 7\], and is added to \[2, 3, 3\]"):
        outputs(strided, weights_of(strided), X)
    with pytest.raises(LayerError, match="nothing was remembered as 'y'"):
        permutations((Conv("a", 2, 2, 3), AddRemembered("y")))


def test_blocks_and_skips_go_together():
    layers = (
        Conv("a", 2, 6, 1), Remember("a"), Residual((Conv("b", 6, 6, 1), Activate("tanh"), Conv("c", 6, 6, 1))),
        Conv("d", 6, 3, 1), AddRemembered("a"), GlobalAveragePool(), Linear("fc", 3, 2),
    )  # fmt: skip
    weights = weights_of(layers)
    changed = permute(weights, layers, torch.Generator().manual_seed(0))
    torch.testing.assert_close(outputs(layers, changed, X), outputs(layers, weights, X))

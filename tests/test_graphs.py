"""Networks as graphs: there and back, what stands where, and that the graph computes what the network computes."""

import pytest
import torch
from torch.nn import functional

from zoo_datasets.adapters.graphs import IDENTITY, WEIGHT, from_graphs, to_graphs
from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.architectures import ARCHITECTURES, get_architecture, resnet18_layers
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.module import Network
from zoo_datasets.symmetries import permute

SMALL = get_architecture("cnn_s").layers(1, 10)
RESIDUAL = resnet18_layers(4)(3, 10)


def weights_of(layers, rows=2, dtype=torch.float32):
    return torch.randn(rows, build_layout(layers).size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_weight_stands_at_one_place_and_comes_back(name):
    layers = get_architecture(name).layers(3, 10)
    weights = weights_of(layers, 1)
    graphs = to_graphs(weights, layers)
    assert graphs.node_mask.sum() + graphs.edge_mask.sum() == weights.numel()
    assert (graphs.nodes[:, ~graphs.node_mask] == 0).all()
    assert torch.equal(from_graphs(graphs.nodes, graphs.edges, layers), weights)


def test_kernels_and_biases_stand_where_they_belong():
    weights = weights_of(SMALL)
    graphs, state = to_graphs(weights, SMALL), build_layout(SMALL).unflatten(weights)
    assert graphs.layer.bincount().tolist() == [1, 8, 6, 4, 20, 10]
    assert graphs.nodes.shape == (2, 49, 1)
    assert torch.equal(graphs.nodes[:, 9:15, 0], state["conv2.bias"])
    edges = graphs.dense_edges().view(2, 49, 49, 5, 5)
    assert torch.equal(edges[:, 3, 10], state["conv2.weight"][:, 1, 2])
    assert torch.equal(edges[:, 9, 15, 1:3, 1:3], state["conv3.weight"][:, 0, 0])  # 2 × 2, padded to 5 × 5
    assert edges[:, 9, 15].count_nonzero() == 2 * 4
    # A linear layer that reads 4 images of 3 × 3 is a convolution with that kernel.
    assert torch.equal(edges[:, 16, 24, 1:4, 1:4], state["fc1.weight"].view(2, 20, 4, 3, 3)[:, 5, 1])
    assert torch.equal(edges[:, 20, 40, 2, 2], state["fc2.weight"][:, 1, 1])
    assert len(graphs.kind) == graphs.index.shape[1] == 8 + 48 + 24 + 80 + 200


def forward(graphs, layers, images, activation):
    """The network computed from the graph alone: nodes as images, layer by layer, each edge as a convolution."""
    kernel = int(graphs.edges.shape[2] ** 0.5)
    places = list(layers)
    held = {node: images[:, node] for node in range(int((graphs.layer == 0).sum()))}
    ends = {}
    for edge, (start, end) in enumerate(graphs.index.T.tolist()):
        ends.setdefault(end, []).append((start, edge))
    strides = {}
    number = 0

    def number_layers(some):
        nonlocal number
        for layer in some:
            if type(layer).__name__ in ("Conv", "Linear"):
                number += 1
                strides[number] = getattr(layer, "stride", 1)
            elif type(layer).__name__ == "Residual":
                number_layers(layer.body)
                number_layers(layer.shortcut)

    number_layers(places)
    final = int(graphs.layer.max())
    # A shortcut's layers come after the body that they are added to, so nodes wait for what they need.
    waiting = [node for node in range(len(graphs.layer)) if node not in held]
    sums = {end for _, end in graphs.index[:, graphs.kind == IDENTITY].T.tolist()}
    fixed = {start for start, _ in graphs.index[:, graphs.kind == IDENTITY].T.tolist()}
    shortcuts = {node for node in fixed if all(graphs.layer[s] < graphs.layer[node] - 1 for s, _ in ends.get(node, []))}
    while waiting:
        node = next(node for node in waiting if all(start in held for start, _ in ends[node]))
        waiting.remove(node)
        layer = int(graphs.layer[node])
        value = 0
        for start, edge in ends[node]:
            if graphs.kind[edge] == WEIGHT:
                x = held[start] if layer < final else held[start].mean(dim=(1, 2), keepdim=True)
                value = (
                    value
                    + functional.conv2d(
                        x[:, None],
                        graphs.edges[0, edge].view(1, 1, kernel, kernel),
                        padding=kernel // 2,
                        stride=strides[layer],
                    )[:, 0]
                )
        bias, scale, shift, mean, variance = graphs.nodes[0, node]
        value = value + bias
        if graphs.node_mask[node, 1]:
            value = (value - mean) / (variance + 1e-5).sqrt() * scale + shift
        value = value + sum(held[start] for start, edge in ends[node] if graphs.kind[edge] == IDENTITY)
        held[node] = value if layer == final or node in shortcuts else activation(value)
    assert sums
    return torch.stack([held[node][:, 0, 0] for node in range(len(graphs.layer)) if graphs.layer[node] == final], dim=1)


@pytest.mark.parametrize("permuted", [False, True])
def test_the_graph_of_a_resnet_computes_its_function(permuted):
    weights = weights_of(RESIDUAL, 1, torch.float64)
    for name, place in build_layout(RESIDUAL).slices().items():
        if name.endswith("running_var"):
            weights[:, place] = weights[:, place].abs() + 0.5
    network = Network(RESIDUAL).double().eval()
    network.load_state_dict({n: t[0] for n, t in build_layout(RESIDUAL).unflatten(weights).items()}, strict=False)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graphs = to_graphs(permute(weights, RESIDUAL) if permuted else weights, RESIDUAL)
    with torch.no_grad():
        torch.testing.assert_close(forward(graphs, RESIDUAL, images, torch.relu), network(images), rtol=1e-8, atol=1e-8)


def test_gradients_reach_the_weights():
    weights = weights_of(SMALL).requires_grad_()
    graphs = to_graphs(weights, SMALL)
    (graphs.nodes.sum() + graphs.edges.sum()).backward()
    assert torch.equal(weights.grad, torch.ones_like(weights))


def test_what_does_not_fit_is_told():
    with pytest.raises(LayoutError, match=r"weights have shape \[2, 9\], expected \[B, 2464\]"):
        to_graphs(torch.zeros(2, 9), SMALL)
    graphs = to_graphs(weights_of(SMALL), SMALL)
    with pytest.raises(LayoutError, match=r"edges have shape \[2, 7, 25\], expected \[B, 360, 25\]"):
        from_graphs(graphs.nodes, graphs.edges[:, :7], SMALL)

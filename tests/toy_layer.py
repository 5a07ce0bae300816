"""A kind of layer that the package does not have, with all rules."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from zoo_datasets.networks.layers import Layer, LayerTensor


@dataclass(frozen=True, slots=True)
class LayerNorm(Layer):
    """Normalisation of vectors, a kind with all rules: nothing but this class is told of it."""

    name: str
    features: int

    def tensors(self):
        shape = (self.features,)
        return (
            LayerTensor(f"{self.name}.weight", shape, start=1.0),
            LayerTensor(f"{self.name}.bias", shape, start=0.0),
        )

    def sublayers(self):
        return None

    def build(self, modules):
        modules.add(self.name, torch.nn.LayerNorm(self.features))

    def forward(self, x, modules):
        return modules.module(self.name)(x)

    def stacked(self, x, state):
        weight, bias = (state.tensors[f"{self.name}.{part}"][:, None] for part in ("weight", "bias"))
        return functional.layer_norm(x, (self.features,)) * weight + bias

    def subsamples(self):
        return False

    def walk_channels(self, walk, stream):
        walk.normalise(stream, [f"{self.name}.weight", f"{self.name}.bias"], [])
        return stream

    def noise_bounds(self):
        return {}

    def inputs(self):
        return self.features

    def walk_graph(self, walk, nodes):
        walk.add_features(nodes, {f"norm_{part}": f"{self.name}.{part}" for part in ("weight", "bias")})
        return nodes

    def reads_out(self):
        return False

    def raw_places(self, dropout):
        return (self.name,)

"""Networks as chains of weight matrices: W⁽ⁱ⁾ [nᵢ, nᵢ₋₁, kᵢ] and b⁽ⁱ⁾ [nᵢ], the form of weight-space equations.

kᵢ is the number of kernel positions: h · w of a convolution, 1 of a linear layer, and of a linear layer that reads C
flattened images of S pixels, S: PyTorch flattens channel by channel, so that its weight is [out, C, S].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers import Layer, build_layout
from zoo_datasets.networks.layout import TensorSpec


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight and its bias.

    Attributes:
        outputs, inputs, positions: n_i, n_{i−1} and k_i.
    """

    weight: TensorSpec
    bias: TensorSpec
    outputs: int
    inputs: int
    positions: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The matrices of a network, input to output; there are at least two.

    Attributes:
        size: D, numbers in the flat vector.
    """

    matrices: tuple[Matrix, ...]
    size: int

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0 … n_L."""
        return (self.matrices[0].inputs, *(matrix.outputs for matrix in self.matrices))

    @property
    def positions(self) -> tuple[int, ...]:
        """k_1 … k_L."""
        return tuple(matrix.positions for matrix in self.matrices)

    def split(self, weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights [B, D] as matrices [B, n_i, n_{i−1}, k_i] and biases [B, n_i, 1]."""
        matrices, biases = [], []
        for matrix in self.matrices:
            shape = (len(weights), matrix.outputs, matrix.inputs, matrix.positions)
            matrices.append(_part(weights, matrix.weight).reshape(shape))
            biases.append(_part(weights, matrix.bias).unsqueeze(-1))
        return matrices, biases


def _part(weights: Tensor, spec: TensorSpec) -> Tensor:
    return weights[:, spec.offset : spec.offset + spec.size]


def chain_of(layers: Sequence[Layer]) -> Chain:
    """The chain of a network of convolutions and linear layers with biases, one after the other.

    Raises:
        LayoutError: if it is no such network, or has no hidden layer.
    """
    layout = build_layout(layers)
    specs = layout.tensors
    pairs = list(zip(specs[::2], specs[1::2], strict=False))
    if len(specs) % 2 or not all(
        len(weight.shape) >= 2 and bias.shape == weight.shape[:1] and _stem(weight) == _stem(bias)
        for weight, bias in pairs
    ):
        raise LayoutError(_refusal("tensors that are neither a weight nor its bias"))
    groups = permutations(layers)
    readers = {use.tensor: (group.name, use.block) for group in groups for use in group.uses if use.axis == 1}
    makers = {use.tensor: group.name for group in groups for use in group.uses if use.axis == 0}
    if len(pairs) < 2:
        raise LayoutError(_refusal("a single layer with weights"))
    matrices: list[Matrix] = []
    for number, (weight, bias) in enumerate(pairs):
        if number and (weight.name not in readers or readers[weight.name][0] != makers.get(pairs[number - 1][0].name)):
            raise LayoutError(_refusal(f"{weight.name}, which does not read the layer before it alone"))
        block = readers[weight.name][1] if number else 1
        inputs = weight.shape[1] // block
        matrices.append(Matrix(weight, bias, weight.shape[0], inputs, weight.size // (weight.shape[0] * inputs)))
    if len(groups) != len(pairs) - 1:
        raise LayoutError(_refusal("residual sums"))
    return Chain(tuple(matrices), layout.size)


def _stem(spec: TensorSpec) -> str:
    return spec.name.rpartition(".")[0]


def _refusal(reason: str) -> str:
    return (
        f"the network has {reason}; this predictor is for chains of convolutions and linear layers with biases: "
        "choose graph, transformer or statistics"
    )

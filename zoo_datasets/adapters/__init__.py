"""Batches of weights in the forms that other work on weight spaces takes, and back.

Each form is a function of weights [B, D] and their layout, and has an inverse that gives the weights back bit for bit.
A layer is what shares the first part of the names: `conv1.weight` and `conv1.bias`. Its channel o has as its row all
numbers of that output: the weights that lead to it, row-major, then its bias (or, of a BatchNorm, its four numbers).
"""

from zoo_datasets.adapters.matrices import from_matrices, to_matrices
from zoo_datasets.adapters.tokens import Tokens, count_tokens, from_tokens, mix, position_sizes, to_tokens
from zoo_datasets.adapters.weight_lists import from_weight_lists, to_weight_lists

__all__ = [
    "Tokens",
    "count_tokens",
    "from_matrices",
    "from_tokens",
    "from_weight_lists",
    "mix",
    "position_sizes",
    "to_matrices",
    "to_tokens",
    "to_weight_lists",
]

"""The kinds of layers. A kind is one class that owns all its rules; everything else asks it.

A new kind is a frozen dataclass that derives from `Layer` (or from `Weightless`, where it has no tensors), in a file of
its family here, and an entry of `KINDS`. Its methods are the rules that `RULES` lists: one that is missing raises a
`LayerError` which names the rule and the kind, so no layer is left out without a word. The native kernels
(`zoo_datasets.stacked.native.codegen`) know some kinds only; networks with others are computed in plain PyTorch.
"""

from zoo_datasets.networks.layers.affine import Conv, Linear
from zoo_datasets.networks.layers.base import DRAWN, RULES, Layer, LayerTensor, Weightless
from zoo_datasets.networks.layers.chain import build_layout, checked, flat_layers, tensors_of
from zoo_datasets.networks.layers.module import Module
from zoo_datasets.networks.layers.normalisation import BatchNorm
from zoo_datasets.networks.layers.pointwise import ACTIVATIONS, Activate, Dropout, Flatten, Shift, Sine
from zoo_datasets.networks.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from zoo_datasets.networks.layers.residual import Residual
from zoo_datasets.networks.layers.skips import AddRemembered, Remember

KINDS: tuple[type[Layer], ...] = (
    Conv,
    Linear,
    BatchNorm,
    MaxPool,
    AveragePool,
    GlobalAveragePool,
    Activate,
    Sine,
    Shift,
    Dropout,
    Flatten,
    Residual,
    Remember,
    AddRemembered,
    Module,
)

__all__ = [
    "ACTIVATIONS",
    "DRAWN",
    "KINDS",
    "RULES",
    "Activate",
    "AddRemembered",
    "AveragePool",
    "BatchNorm",
    "Conv",
    "Dropout",
    "Flatten",
    "GlobalAveragePool",
    "Layer",
    "LayerTensor",
    "Linear",
    "MaxPool",
    "Module",
    "Remember",
    "Residual",
    "Shift",
    "Sine",
    "Weightless",
    "build_layout",
    "checked",
    "flat_layers",
    "tensors_of",
]

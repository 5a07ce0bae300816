"""Many networks as one: streams, initial weights, forward and backward of a stack of members."""

from zoo_datasets.stacked.block import BlockRecipe, MemberBlock, Tally, TorchBlock
from zoo_datasets.stacked.evaluate import evaluate_stack
from zoo_datasets.stacked.initialise import initialise
from zoo_datasets.stacked.native.block import NativeBlock
from zoo_datasets.stacked.network import StackedNetwork, lanes_of
from zoo_datasets.stacked.optimizers import StepSettings

__all__ = [
    "BlockRecipe",
    "MemberBlock",
    "NativeBlock",
    "StackedNetwork",
    "StepSettings",
    "Tally",
    "TorchBlock",
    "evaluate_stack",
    "initialise",
    "lanes_of",
]

"""The native path: a block of members in C, one member a vector lane."""

from zoo_datasets.stacked.native.block import (
    NativeBlock,
    available,
    instructions,
    lanes,
    load_kernels,
    path_name,
    supports,
)

__all__ = ["NativeBlock", "available", "instructions", "lanes", "load_kernels", "path_name", "supports"]

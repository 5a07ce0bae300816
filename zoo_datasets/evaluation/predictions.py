"""What many networks say of images: predictions and representations, in stacked passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo_datasets.errors import SpecError
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.networks.layers import Layer, build_layout, checked
from zoo_datasets.stacked import StackedNetwork, lanes_of
from zoo_datasets.stacked.threads import torch_workers
from zoo_datasets.storage.cores import cores

_BATCH = 100


def predictions(layers: Sequence[Layer], activation: str, weights: Tensor, data: ImageData, split: Split) -> Tensor:
    """The class that each network gives each image: uint8 [K, N], or int16 where there are over 256 classes.

    Args:
        layers, activation: shared by all networks.
        weights: float32 [K, D].
        data: gives the normalisation.
    """
    dtype = torch.uint8 if data.classes <= 256 else torch.int16
    return _outputs(layers, activation, weights, data, split, lambda logits: logits.argmax(dim=2).to(dtype))


def representations(
    layers: Sequence[Layer], activation: str, weights: Tensor, data: ImageData, split: Split, images: int = 256
) -> Tensor:
    """What enters the last linear layer, for the first images of a split: float32 [K, images, F].

    Raises:
        SpecError: if the network has no linear layer that reads out.
    """
    last = _readout(layers)
    first = Split(split.images[:images], split.labels[:images])
    return _outputs(layers[:last], activation, weights, data, first, lambda x: x, full=layers)


def _readout(layers: Sequence[Layer]) -> int:
    """The number of the last layer that reads logits out of a representation."""
    numbers = [number for number, layer in enumerate(checked(layers)) if layer.reads_out()]
    if not numbers:
        raise SpecError("representations are what enters the last linear layer, and this network has none")
    return numbers[-1]


def _outputs(
    layers: Sequence[Layer],
    activation: str,
    weights: Tensor,
    data: ImageData,
    split: Split,
    keep: Callable[[Tensor], Tensor],
    full: Sequence[Layer] | None = None,
) -> Tensor:
    """`keep` of the outputs [K, B, F] of some layers, for all images."""
    network, layout = StackedNetwork(layers, activation), build_layout(full or layers)
    lanes = lanes_of(full or layers)

    @torch.no_grad()
    def run(rows: Tensor) -> Tensor:
        tensors = {name: tensor.contiguous() for name, tensor in layout.unflatten(rows).items()}
        parts = [
            keep(network(tensors, data.normalise(split.images[start : start + _BATCH])))
            for start in range(0, len(split.labels), _BATCH)
        ]
        return torch.cat(parts, dim=1)

    # Blocks in parallel, each on one thread: faster than many threads in the small products of one block.
    with torch_workers(cores() if lanes > 1 else 1) as pool:
        return torch.cat(list(pool.map(run, torch.split(weights.float(), lanes))))

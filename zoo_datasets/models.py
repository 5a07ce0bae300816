"""Back from batches of weights to networks: modules, and their accuracy and loss in stacked passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo_datasets.architectures import ACTIVATIONS, build_layout, get_architecture
from zoo_datasets.errors import ImagesError, LayoutError, UnknownNameError
from zoo_datasets.images import ImageData
from zoo_datasets.loading import to_module
from zoo_datasets.schema import WEIGHTS
from zoo_datasets.stacked import evaluate_stack

_NEEDED = (WEIGHTS, "architecture", "in_channels", "classes", "activation", "dropout")


def to_modules(batch: Mapping[str, Any]) -> list[nn.Module]:
    """The networks of a batch of `batches`, in eval mode, each with a copy of its weights.

    Raises:
        SpecError: where the batch lacks a column.
        LayoutError: where the weights do not fit.
    """
    columns = [name for name in _NEEDED if name in batch]
    count = len(batch[WEIGHTS]) if WEIGHTS in batch else 1
    return [to_module({name: _item(batch[name][index]) for name in columns}) for index in range(count)]


def evaluate(
    weights: Tensor, images: ImageData, architecture: str, activation: str, split: str = "test"
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of weight vectors of one architecture and activation, in stacked passes.

    Args:
        weights: [B, D], of a zoo or generated.
        images: as `load_images` gives them.
        split: train, val or test.

    Returns:
        loss float64 [B], accuracy float64 [B] in [0, 1].

    Raises:
        UnknownNameError: where there is no such architecture, activation or split.
        LayoutError: where the weights do not fit the architecture on these images.
        ImagesError: where the images have no such split.
    """
    layers = get_architecture(architecture).layers(images.channels, images.classes)
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    splits = {"train": images.train, "val": images.val, "test": images.test}
    if split not in splits:
        raise UnknownNameError("split", split, splits)
    size = build_layout(layers).size
    if weights.ndim != 2 or weights.shape[1] != size:
        raise LayoutError(
            f"weights have shape {list(weights.shape)}, expected [B, {size}] for {architecture} with "
            f"{images.channels} input channels and {images.classes} classes"
        )
    chosen = splits[split]
    if chosen is None:
        raise ImagesError(f"{images.spec.name} has no {split} images")
    loss, correct = evaluate_stack(layers, activation, weights.detach().cpu().float(), images, chosen)
    return loss, correct.double() / len(chosen.labels)


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and not value.ndim else value

"""The images that a run or a config was made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.prepare import ImageData, images_of, images_of_record
from zoo_datasets.specs.images import Pixels
from zoo_datasets.specs.spec import ZooSpec


def recorded_images(
    zoo: ZooSpec | Mapping[str, Any],
    architecture: str,
    folder: Path | None,
    fingerprint: str | None,
    owner: object,
    pixels: Pixels | None = None,
) -> ImageData:
    """The images of a zoo; without a folder those of the fingerprint that were prepared here before.

    Args:
        zoo: its spec, or the fields that a manifest has of it.
        folder: of `--images`; None means the prepared ones, else the Hub.
        fingerprint: of the images that are needed; None if that is unknown.
        owner: what was made with them, for messages.
        pixels: as of `images_of_record`.

    Raises:
        ImagesError: if they cannot be loaded, or have another fingerprint.
    """
    if isinstance(zoo, ZooSpec):
        data = images_of(zoo, folder, fingerprint=fingerprint)
    else:
        data = images_of_record(zoo, architecture, folder, fingerprint, pixels)
    if fingerprint not in (None, data.fingerprint):
        raise ImagesError(
            f"{folder or data.spec.hub_id or data.spec.name} holds other images than {owner} was made with: "
            f"fingerprint {data.fingerprint[:16]}… found, {fingerprint[:16]}… expected. Pass these with --images"
        )
    return data

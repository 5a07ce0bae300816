"""The images that a run or a config was made with."""

from __future__ import annotations

from pathlib import Path

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.prepare import ImageData, load_images, prepared_images


def recorded_images(
    name: str, architecture: str, folder: Path | None, fingerprint: str | None, owner: object
) -> ImageData:
    """Images as `load_images` gives them; without a folder those of the fingerprint that were prepared here before.

    Args:
        folder: of `--images`; None means the prepared ones, else the Hub.
        fingerprint: of the images that are needed; None if that is unknown.
        owner: what was made with them, for messages.

    Raises:
        ImagesError: if they cannot be loaded, or have another fingerprint.
    """
    if folder is None and fingerprint is not None:
        prepared = prepared_images(name, architecture, fingerprint)
        if prepared is not None:
            return prepared
    data = load_images(name, architecture, folder)
    if fingerprint not in (None, data.fingerprint):
        raise ImagesError(
            f"{folder or data.spec.hub_id or name} holds other images than {owner} was made with: fingerprint "
            f"{data.fingerprint[:16]}… found, {fingerprint[:16]}… expected. Pass these with --images"
        )
    return data

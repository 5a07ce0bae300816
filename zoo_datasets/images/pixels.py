"""One image as networks see it: decoded, of the right mode, made to fit."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray
from PIL import Image

from zoo_datasets.errors import ImagesError
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.specs.images import ImageSpec
from zoo_datasets.specs.zoos import list_zoos

# Raster formats that Pillow decodes by itself; others, such as EPS, would start another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 1 << 26  # of one image
# Eight bits a channel; others, such as I;16, would lose theirs in silence.
_CONVERTIBLE = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
)
# For errors: the first zoo of the table for images of a mode.
ZOO_OF_MODE: dict[str, str] = {
    get_image_spec(zoo.images, zoo.architecture).mode: zoo.name for zoo in reversed(list_zoos())
}
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def reason_of(error: BaseException) -> str:
    """One line; `datasets` wraps what went wrong in an error that only says that something did."""
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return (text or type(error).__name__).rstrip(".")


def decode_image(content: bytes | None, path: str | None) -> Image.Image:
    """The decoded image, turned upright as `datasets` does.

    Raises:
        ImagesError: if it is missing, truncated or of an unknown format.
    """
    if content is None and path is None:
        raise ImagesError("no image found; leave out the row")
    try:
        # The path of an image that comes with its content is a bare name.
        with Image.open(io.BytesIO(content) if content is not None else str(path), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImagesError(
                    f"{image.width:,}×{image.height:,} pixels found, at most {MAX_PIXELS:,} in all expected"
                )
            image.load()
            return _upright(image)
    except ImagesError:
        raise
    except _DECODE_ERRORS as error:
        raise ImagesError(
            f"could not be decoded: {reason_of(error)}; replace it or leave it out ({', '.join(FORMATS)} are read)"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags, ImageOps

    if "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) is not None:
        return ImageOps.exif_transpose(image)
    return image


def prepare_image(image: Image.Image, spec: ImageSpec, size: int | None) -> NDArray[np.uint8]:
    """One image as the networks see it before normalisation: uint8 [C, H, W].

    The mode first (grey as the spec says: ITU-R 601-2 luma, as PIL does it, or the mean of the channels), then a centre
    crop or a bilinear, antialiased resize of the uint8 image to `size` × `size`; None keeps a square image's own size.

    Raises:
        ImagesError: if the image is of another mode and may not be converted, or cannot be made to fit.
    """
    if image.mode != spec.mode:
        # One bit to eight loses nothing.
        if not spec.convert and (image.mode, spec.mode) != ("1", "L"):
            other = ZOO_OF_MODE.get(image.mode)
            raise ImagesError(
                f"mode {image.mode} found, {spec.mode} ({spec.channels} channel{'s' * (spec.channels > 1)}) expected "
                f"by {spec.name}; convert the images to {spec.mode}"
                + (f", or choose a zoo for images of mode {image.mode}, such as {other}" if other else "")
            )
        if image.mode not in _CONVERTIBLE:
            raise ImagesError(f"mode {image.mode} found, 8 bits a channel expected; convert the images first")
        image = _mean_of_channels(image) if (spec.mode, spec.grey) == ("L", "mean") else image.convert(spec.mode)
    width, height = image.size
    if size is None and width != height:
        raise ImagesError(f"{width}×{height} pixels found, a square image expected; crop or resize the images")
    if size is not None and (width, height) != (size, size):
        if spec.fit == "resize":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        elif min(width, height) >= size:
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        else:
            raise ImagesError(f"{width}×{height} pixels found, at least {size}×{size} expected; enlarge the images")
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _mean_of_channels(image: Image.Image) -> Image.Image:
    """Grey as the mean of red, green and blue, rounded to even."""
    colours = np.asarray(image.convert("RGB"), np.float64)
    return Image.fromarray(np.rint(colours.mean(axis=2)).astype(np.uint8))

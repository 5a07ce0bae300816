"""The image datasets that members are trained on."""

from zoo_datasets.images.cutting import FEWEST, ROLES, SPLIT_SEED, cut
from zoo_datasets.images.data import ImageData
from zoo_datasets.images.prepare import PREPARATION, load_images
from zoo_datasets.images.split import Role, Split, folder_digest
from zoo_datasets.images.table import IMAGES, get_image_spec

__all__ = [
    "FEWEST",
    "IMAGES",
    "PREPARATION",
    "ROLES",
    "SPLIT_SEED",
    "ImageData",
    "Role",
    "Split",
    "cut",
    "folder_digest",
    "get_image_spec",
    "load_images",
]

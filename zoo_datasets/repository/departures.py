"""In what a zoo differs from the published one of its recipe, as its card says; docs/published.md has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo_datasets.repository.credit import credit_of
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.specs.zoos import ZOOS, dense_name
from zoo_datasets.text import markdown

_TWIN = "variational_dropout"
_MOST = 20  # remarks


def departures(manifest: Manifest) -> list[str]:
    """One sentence for each difference from the published zoo, or what is to know of a population of others; none for
    zoos of other recipes and unknown origin."""
    origin = credit_of(manifest.source).origin
    remarks = manifest.source.get("remarks")
    if isinstance(remarks, list):
        return [markdown(one) for one in remarks[:_MOST]]
    zoo = manifest.zoo
    name = dense_name(str(zoo.get("name")), zoo.get("sparsifier"))
    if name not in ZOOS or ZOOS[name].images == "digits":
        return []
    if origin == "trained":
        return list(_of_trained(manifest, zoo, name))
    return list(_of_published(manifest, zoo, name)) if origin == "published" else []


def _of_trained(manifest: Manifest, zoo: Mapping[str, Any], name: str) -> Iterator[str]:
    if ZOOS[name].augmentation and not zoo.get("sparsifier"):
        yield (
            "Validation figures, and all figures of epoch 0, are of the images as they are; those of the published zoo "
            "are of augmented images."
        )
    if _is_grid_of_svhn(name):
        yield (
            "Images are normalised as the published models saw them; the scripts of the published hyperparameter zoos "
            "state another normalisation than that of the images that they load."
        )
    if ZOOS[name].seed_kind == "random":
        yield "The seeds were drawn here; they are not those of the published zoo."
    if zoo.get("sparsifier") == _TWIN:
        yield "Losses are cross-entropy alone; those that the authors recorded of their twins have β·KL added."
    if zoo.get("sparsifier"):
        yield (
            "Each twin is trained with the hyperparameters of its own parent; the authors' script uses those of the "
            "first parent for all."
        )
    if manifest.zoo.get("images") == "eurosat":
        yield (
            "Initialisation, number of models and epochs are those published; the rest of the recipe is that of "
            "CIFAR-10, a guess."
        )


def _of_published(manifest: Manifest, zoo: Mapping[str, Any], name: str) -> Iterator[str]:
    if ZOOS[name].augmentation and not zoo.get("sparsifier"):
        yield (
            "Validation figures, and all figures of epoch 0, are of augmented images and cannot be recomputed exactly."
        )
    if _is_grid_of_svhn(name):
        yield "The authors' scripts state another normalisation of the images than that of the images that they load."
    if zoo.get("sparsifier"):
        yield (
            "Hyperparameters of a row are those of its parent; the authors' script trains all twins with those of the "
            "first parent."
        )


def _is_grid_of_svhn(name: str) -> bool:
    return ZOOS[name].images == "svhn" and ZOOS[name].points > 1

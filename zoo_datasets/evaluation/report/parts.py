"""What reports of classifiers and of fields share: how much they look at, which rows, what the config is without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.samples import SampleForm, ZooReader
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import WEIGHTS

_LISTED = 200
_SAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How much of a zoo is looked at.

    Attributes:
        models: on the map, drawn at random where there are more.
        trajectories: models whose whole training is shown; 0 leaves them out.
        pairs: models that are compared in pairs.
        method: of the map, pca or umap.
    """

    models: int = 1000
    trajectories: int = 24
    pairs: int = 128
    method: str = "pca"

    def __post_init__(self) -> None:
        if self.method not in ("pca", "umap"):
            raise SpecError(f"map by {self.method!r}: expected pca or umap")


Step = Callable[[str], None]


def last_rows(rows: Dataset, last: pa.Table, limit: int) -> Dataset:
    """The last row of each model, or of `limit` models drawn at random."""
    wanted = set(zip(last["model_id"].to_pylist(), last["epoch"].to_pylist(), strict=True))
    keys = zip(rows["model_id"][:], rows["epoch"][:], strict=True)
    places = np.array([place for place, key in enumerate(keys) if key in wanted])
    if len(places) > limit:
        places = np.sort(np.random.default_rng(_SAMPLE_SEED).permutation(places)[:limit])
    return rows.select(places)


def evenly(count: int, limit: int) -> NDArray[np.int64]:
    """Places of at most `limit` of `count` things, as far from each other as can be."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64)


def weights_of(rows: Dataset) -> Tensor:
    """Their weights, float32 [K, D]."""
    return cast(Tensor, ZooReader(rows, [WEIGHTS]).read(slice(0, len(rows)), SampleForm())[WEIGHTS])


def left_out_of(manifest: Manifest, nonfinite: int) -> dict[str, Any]:
    """What a config is without.

    Args:
        nonfinite: how many models the map is without, as their weights are not finite.
    """
    entries = [[entry.model, list(entry.epochs), entry.reason] for entry in manifest.left_out]
    return {
        "models": asdict(manifest.models),
        "states": asdict(manifest.states),
        "entries": entries[:_LISTED],
        "more": max(len(entries) - _LISTED, 0),
        "nonfinite": nonfinite,
    }

"""Folders of state dicts for tests, and the rows of what is built of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo_datasets.builders import BuildResult, Reading, StateDictOptions, build_repository
from zoo_datasets.loading.modules import to_state_dict
from zoo_datasets.networks.records import remember
from zoo_datasets.repository.row import records_of_schema

NAME = "mlps"


def mlp(seed: int, hidden: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The state dict of a perceptron 3 → hidden → 2."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (hidden, 3), "fc1.bias": (hidden,), "fc2.weight": (2, hidden), "fc2.bias": (2,)}
    return {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}


def write_folder(folder: Path, states: Mapping[str, Mapping[str, Any]], **options: Any) -> Path:
    """A folder of state dicts, each under its name, whose ending says in which format."""
    for name, state in states.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(dict(state), path, **options)
        else:
            torch.save(state, path, **options)
    return folder


def build(source: Path | str, repo: Path, name: str = NAME, **options: Any) -> BuildResult:
    """`build_repository` of state dicts; `options` are those of `StateDictOptions`, and of `Reading`."""
    own = {key: options.pop(key) for key in ("epochs", "models", "where") if key in options}
    return build_repository(source, repo, name, reading=Reading(**own, state_dicts=StateDictOptions(**options)))


def rows_of(repo: Path, name: str = NAME) -> list[dict[str, Any]]:
    """All rows by model and epoch, with the restored state dict as `state`."""
    rows = []
    for file in sorted((repo / name).glob("*.parquet")):
        table = pq.read_table(file, partitioning=None)
        remember(records_of_schema(table.schema).values())
        rows += [row | {"state": to_state_dict(row)} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["model_id"], row["epoch"], row["step"] or 0))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.contiguous()
        .reshape(-1)
        .view(torch.uint8)
        .equal(other[name].contiguous().reshape(-1).view(torch.uint8))
        for name, value in one.items()
    )

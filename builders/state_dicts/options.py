"""What a user says of a folder of state dicts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

OnOtherLayout = Literal["ragged", "leave-out", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateDictOptions:
    """How state dicts of anybody are read.

    Attributes:
        pattern: what the names of files say, as `{model_id}/epoch_{epoch}.safetensors`; a guess where it is None.
        table: CSV, TSV, JSON lines or Parquet with a row for each file, by `file` or by the pattern's fields.
        split_column, parent_column, group_column: columns of the table that are `source_split`, `parent_id`, `group`.
        on_missing: what becomes of rows of the table whose file is not there.
        task: of all models, where no column tells it.
        columns_from: name of a JSON file beside each file of tensors, whose values are columns.
        on_other_layout: what becomes of files whose tensors are not those of most: the rows of a config may have
            several layouts, or they are left out, or the build fails.
        cast: whether tensors that float32 cannot hold are converted to it: float64 always, others where they are
            larger than a row's raw tensors may be.
        where: a condition as that of `Reading`, on columns that no other zoo has too.
        layout: a JSON file that says which tensors the rows of `.npy` files are made of.
    """

    pattern: str | None = None
    table: Path | None = None
    split_column: str | None = None
    parent_column: str | None = None
    group_column: str | None = None
    on_missing: Literal["fail", "leave-out"] = "fail"
    task: str | None = None
    columns_from: str | None = None
    on_other_layout: OnOtherLayout = "ragged"
    cast: bool = False
    where: str | None = None
    layout: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON values: of paths the names alone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {
            field.name: values[field.name] for field in dataclasses.fields(self) if values[field.name] != field.default
        }
        return {name: value.name if isinstance(value, Path) else value for name, value in given.items()}

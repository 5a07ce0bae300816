"""Whether open rows are those of members of their zoo: ids, seeds and hyperparameters, and the weights of epoch 0.

Rows of classic configs tell all of this themselves (`recipes`, `weights`); of open ones the zoo's spec tells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from zoo_datasets.documents import parse_json
from zoo_datasets.errors import ZooError
from zoo_datasets.evaluation.verify.findings import Findings
from zoo_datasets.evaluation.verify.recipes import Recipe, differs_from_start
from zoo_datasets.evaluation.verify.shards import READ_ERRORS, CheckedRow
from zoo_datasets.evaluation.verify.weights import MOST_DRAWN
from zoo_datasets.networks.kind import is_field
from zoo_datasets.networks.layers.documents import layers_from_json
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.layouts import local_layouts
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import LAYOUT, WEIGHTS
from zoo_datasets.specs.members import Limits, Member, members_of
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.text import one_line

_MOST_MEMBERS = 2_000_000


def check_members(
    repo: Path, manifest: Manifest, recipe: Recipe, rows: Sequence[CheckedRow], findings: Findings
) -> None:
    """Compare open rows of a zoo that this package trained with its members."""
    if recipe.zoo is None or not recipe.is_drawn:
        return
    try:
        members = _members(recipe.zoo, manifest)
        records = local_layouts(repo, manifest)
    except (TypeError, ValueError, ZooError) as error:
        findings.differs("recipes", f"its members cannot be told: {one_line(error)[:200]}")
        return
    if members is None:
        findings.unchecked(f"seeds and ids, as the zoo has more than {_MOST_MEMBERS:,} members")
        return
    drawn = 0
    for (shard, group), some in groupby(rows, key=lambda row: (row.shard, row.row_group)):
        try:
            with pq.ParquetFile(repo / shard.path) as file:
                narrow = [name for name in file.schema_arrow.names if name in _columns(recipe.zoo)]
                table = file.read_row_group(group, columns=narrow)
                findings.differ("recipes", list(_wrong_rows(table, members)))
                if any(row.epoch == 0 and not row.step for row in some) and drawn < MOST_DRAWN:
                    table = file.read_row_group(group, columns=["model_id", "epoch", "step", LAYOUT, WEIGHTS])
                    drawn += _check_start(table, members, records, findings)
        except READ_ERRORS as error:
            findings.differs("recipes", f"{shard.path} could not be read: {one_line(error)[:200]}")
    models = len({row.model_id for row in rows})
    findings.checked("recipes", f"{models:,} models are members of the zoo, with their seeds and hyperparameters")
    if drawn or not findings.passed("start"):
        most = ", the first ones" if drawn >= MOST_DRAWN else ""
        findings.checked("start", f"weights of epoch 0 are those of seed and init{most}")


def _members(zoo: ZooSpec, manifest: Manifest) -> dict[str, Member] | None:
    """The members by id; None where they are too many."""
    source = manifest.source.get("of") or manifest.source
    growth = source.get("growth")
    count = max(step["models"] for step in growth) if growth else zoo.models
    if count > _MOST_MEMBERS:
        return None
    limits = Limits(**(source.get("limits") or {}))
    return {member.model_id: member for member in members_of(zoo, limits, count)}


def _columns(zoo: ZooSpec) -> set[str]:
    """The columns that a member tells."""
    point = zoo.grid(1)[0]
    # Each layer of a field names its own activation.
    own = {"activation"} if is_field(zoo.architecture) else set()
    return {"model_id", "seed", *point.to_dict()} - own


def _wrong_rows(table: pa.Table, members: Mapping[str, Member]) -> Iterator[str]:
    for row in table.to_pylist():
        member = members.get(row["model_id"])
        if member is None:
            yield f"model {row['model_id']}: its id is none of the members of the zoo"
            continue
        expected: dict[str, Any] = {"seed": member.seed} | member.hyperparameters.to_dict()
        for name, value in expected.items():
            if name in row and row[name] != value:
                yield f"model {member.model_id}: {name} is {row[name]!r:.60}, that of the member {value!r:.60}"


def _check_start(
    table: pa.Table, members: Mapping[str, Member], records: Mapping[str, NetworkRecord], findings: Findings
) -> int:
    """Compare weights of epoch 0 in a row group with those of seed and init; returns how many numbers were drawn."""
    narrow = table.drop_columns([WEIGHTS]).to_pylist()
    weights = table[WEIGHTS].combine_chunks()
    drawn = 0
    for layout in dict.fromkeys(row[LAYOUT] for row in narrow):
        places = [
            place
            for place, row in enumerate(narrow)
            if row[LAYOUT] == layout and row["epoch"] == 0 and not row["step"] and row["model_id"] in members
        ]
        record = records.get(layout)
        if not places or record is None or record.layers is None:
            continue
        places = places[: max((MOST_DRAWN - drawn) // record.layout.size, 1)]
        own = [members[narrow[place]["model_id"]] for place in places]
        points = [member.hyperparameters for member in own]
        try:
            wrong = differs_from_start(
                layers_from_json(parse_json(record.layers)),
                [member.seed for member in own],
                [point.init for point in points],
                torch.from_numpy(np.stack([weights[place].values.to_numpy() for place in places])),
                [point.init_std for point in points],
                [point.b_init for point in points],
            )
        except (ZooError, TypeError, ValueError, RuntimeError) as error:
            findings.differs("start", f"weights of epoch 0 could not be drawn: {one_line(error)[:200]}")
            continue
        drawn += len(places) * record.layout.size
        findings.differ(
            "start",
            [
                f"model {own[at].model_id}: weights of epoch 0 are not those of seed {own[at].seed} and init "
                f"{points[at].init}"
                for at in wrong
            ],
        )
    return drawn

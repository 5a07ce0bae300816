"""The layouts of an open config: the file `NAME-layouts/….parquet`, which tells what networks its rows are of."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_datasets.documents import parse_json
from zoo_datasets.errors import DocumentError, LayoutError, RepositoryError
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.row import LAYOUT, LAYOUTS_SCHEMA


def read_layouts_file(file: Path) -> dict[str, NetworkRecord]:
    """The records of a file of layouts, by hash; this process knows them from now on.

    Raises:
        RepositoryError: naming the file, if it is broken or a layout is not what its hash says.
    """
    try:
        table = pq.read_table(file, schema=LAYOUTS_SCHEMA, partitioning=None)
        rows = table.select([LAYOUT, "tensors", "layers"]).to_pylist()
        records = {
            row[LAYOUT]: NetworkRecord.from_dict(
                {
                    "tensors": parse_json(row["tensors"]),
                    "layers": None if row["layers"] is None else parse_json(row["layers"]),
                }
            )
            for row in rows
        }
    except (OSError, ValueError, TypeError, DocumentError, LayoutError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise RepositoryError(f"{file} could not be read: {reason}; build the config again") from error
    for name, record in records.items():
        if record.hash != name:
            raise RepositoryError(f"{file}: the layout named {name[:40]!a} is another one; build the config again")
    remember(records.values())
    return records


def local_layouts(repo: Path, manifest: Manifest) -> dict[str, NetworkRecord]:
    """The layouts of a config of a local repository, by hash; none if its rows are not open.

    Raises:
        RepositoryError: if their file is broken.
    """
    records: dict[str, NetworkRecord] = {}
    for shard in manifest.layouts:
        records |= read_layouts_file(repo / shard.path)
    return records

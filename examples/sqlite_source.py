"""A source of one's own: networks that lie in a table of SQLite become a config of a dataset repository.

python examples/sqlite_source.py networks.sqlite model-zoos
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from zoo_datasets import WeightLayout
from zoo_datasets.builders import (
    Model,
    NetworkRecord,
    OpenColumns,
    Source,
    StateBlock,
    States,
    build_from,
    further_column,
)

LAYOUT = WeightLayout.of([("fc1.weight", (8, 2), "parameter"), ("fc1.bias", (8,), "parameter"),
                          ("fc2.weight", (1, 8), "parameter"), ("fc2.bias", (1,), "parameter")])  # fmt: skip


class SqliteSource(Source):
    """The rows of `networks (id TEXT, epoch INTEGER, rank INTEGER, psnr REAL, weights BLOB)`."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.name, self.path = path.stem, path
        self.shape = NetworkRecord(LAYOUT)
        further = (further_column("psnr", "float64", "of the whole image, dB"), further_column("rank", "int64"))
        self.open_columns = OpenColumns(records={self.shape.hash: self.shape}, further=further, weights=LAYOUT.size)
        rows = self.query("SELECT DISTINCT id, rank FROM networks ORDER BY id")
        self.known = [Model(model_id=key, columns={"rank": rank}, layouts=(self.shape.hash,)) for key, rank in rows]
        self.models, ((self.states,),) = len(self.known), self.query("SELECT count(*) FROM networks")

    def query(self, text: str, *values: object) -> list[tuple]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(text, values).fetchall()

    def fingerprint(self) -> str:
        return f"{self.path.stat().st_size} {self.path.stat().st_mtime_ns}"

    def blocks(self) -> list[StateBlock]:
        epochs = [epoch for (epoch,) in self.query("SELECT DISTINCT epoch FROM networks ORDER BY epoch")]
        return [StateBlock(models=tuple(self.known), epochs=tuple(epochs))]

    def read(self, block: StateBlock) -> Iterator[States]:
        for epoch in block.epochs:
            for model in block.models:
                text = "SELECT psnr, weights FROM networks WHERE id = ? AND epoch = ?"
                for psnr, weights in self.query(text, model.model_id, epoch):
                    flat = torch.from_numpy(np.frombuffer(weights, "<f4").copy())[None]
                    figures = {"psnr": pa.array([psnr], pa.float64())}
                    yield States(epochs=[epoch], models=[model], weights=flat, figures=figures, layout=self.shape.hash)


if __name__ == "__main__":
    print(build_from(SqliteSource(Path(sys.argv[1])), Path(sys.argv[2])))

"""A source that a user writes: 200 networks in a file of SQLite."""

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import zoo_datasets as zd
from zoo_datasets.builders import build_from, zoo_builder
from zoo_datasets.repository.manifest import read_manifest

EXAMPLE = Path(__file__).parents[2] / "examples" / "sqlite_source.py"
COUNT, SIZE = 200, 33


@pytest.fixture(scope="module")
def source_class():
    spec = importlib.util.spec_from_file_location("sqlite_source", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SqliteSource


def values(number, epoch):
    return np.random.default_rng([number, epoch]).normal(size=SIZE).astype(np.float32)


def write(path, count=COUNT):
    rows = [
        (f"m{number:03}", epoch, number % 7 if number else None, number / 3, values(number, epoch).tobytes())
        for number in range(count)
        for epoch in range(2)
    ]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE IF EXISTS networks")
        database.execute(
            "CREATE TABLE networks (id TEXT, epoch INTEGER, rank INTEGER, psnr REAL, weights BLOB, UNIQUE (id, epoch))"
        )
        database.executemany("INSERT INTO networks VALUES (?, ?, ?, ?, ?)", rows)
    return path


def check(splits, count=COUNT):
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 2 * count
    for row in rows:
        number = int(row["model_id"][1:])
        assert np.array_equal(np.array(row["weights"], np.float32), values(number, row["epoch"]))
        assert (row["rank"], row["psnr"]) == (number % 7 if number else None, number / 3)


def test_it_becomes_a_config_that_grows(source_class, tmp_path):
    result = build_from(source_class(write(tmp_path / "fields.sqlite", 150)), tmp_path / "repo")
    assert (result.rows, result.models, result.epochs) == (300, 150, (0, 1))
    build_from(source_class(write(tmp_path / "fields.sqlite")), tmp_path / "repo")
    check(zd.load_zoo(tmp_path / "repo", "fields"))
    columns = {column.name: (str(column.type), column.doc) for column in
               read_manifest(tmp_path / "repo", "fields").open.further}  # fmt: skip
    assert columns == {"psnr": ("double", "of the whole image, dB"), "rank": ("int64", "")}
    some = zd.load_zoo(tmp_path / "repo", "fields", where="rank == 3 and psnr > 20")
    assert all(row["rank"] == 3 and row["psnr"] > 20 for split in some.values() for row in split)
    row = zd.load_zoo(tmp_path / "repo", "fields", "train")[0]
    assert zd.to_state_dict(row)["fc1.weight"].shape == (8, 2)
    assert zd.verify_repository(tmp_path / "repo", "fields").ok


def test_the_builder_of_datasets_takes_it_as_it_is(source_class, tmp_path):
    source = source_class(write(tmp_path / "fields.sqlite"))
    builder = zoo_builder(source, cache_dir=tmp_path / "cache")
    builder.download_and_prepare(num_proc=2)
    check(builder.as_dataset())
    check(zoo_builder(source, cache_dir=tmp_path / "other").as_streaming_dataset())
    again = zoo_builder(source_class(tmp_path / "fields.sqlite"), cache_dir=tmp_path / "cache")
    assert again.cache_dir == builder.cache_dir
    changed = zoo_builder(source_class(write(tmp_path / "fields.sqlite", 50)), cache_dir=tmp_path / "cache")
    assert changed.cache_dir != builder.cache_dir
    changed.download_and_prepare()
    check(changed.as_dataset(), 50)

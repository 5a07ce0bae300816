"""Builders: a source of models becomes a config of a dataset repository."""

from zoo_datasets.builders.arrow import zoo_builder
from zoo_datasets.builders.build import build_from, build_repository
from zoo_datasets.builders.select import rename_zoo, select_rows
from zoo_datasets.builders.shards.building import BuildResult
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.repository import RowChoice
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.builders.writing.write import write_rows

__all__ = [
    "BuildResult",
    "Reading",
    "RowChoice",
    "StateDictOptions",
    "build_from",
    "build_repository",
    "open_source",
    "rename_zoo",
    "select_rows",
    "write_rows",
    "zoo_builder",
]

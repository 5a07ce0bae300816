"""Builders: a source of models becomes a config of a dataset repository."""

from zoo_datasets.builders.arrow import zoo_builder
from zoo_datasets.builders.build import build_from, build_repository
from zoo_datasets.builders.select import rename_zoo, select_rows
from zoo_datasets.builders.shards.building import BuildResult
from zoo_datasets.builders.sources.base import OpenColumns, Reading, Source, StateBlock, States
from zoo_datasets.builders.sources.repository import RowChoice
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.builders.writing.write import write_rows
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.row import further_column
from zoo_datasets.runs.rows import Model

__all__ = [
    "BuildResult",
    "Model",
    "NetworkRecord",
    "OpenColumns",
    "Reading",
    "RowChoice",
    "Source",
    "StateBlock",
    "StateDictOptions",
    "States",
    "build_from",
    "build_repository",
    "further_column",
    "open_source",
    "rename_zoo",
    "select_rows",
    "write_rows",
    "zoo_builder",
]

"""Builders: a source of models becomes a config of a dataset repository."""

from zoo_datasets.builders.building import BuildResult
from zoo_datasets.builders.repository import build_from, build_repository, open_source
from zoo_datasets.builders.source import Reading

__all__ = ["BuildResult", "Reading", "build_from", "build_repository", "open_source"]

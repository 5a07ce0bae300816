"""Builders: a source of models becomes a config of a dataset repository."""

from zoo_datasets.builders.repository import BuildResult, build_from, build_repository, open_source

__all__ = ["BuildResult", "build_from", "build_repository", "open_source"]

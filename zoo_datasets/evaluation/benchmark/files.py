"""Files of benchmarks: read as this version wrote them, or refused on one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zoo_datasets.documents import brief, read_json
from zoo_datasets.errors import RepositoryError
from zoo_datasets.evaluation.benchmark.run import Data

FEATURES, MODELS = "features", "models"  # what is compared

T = TypeVar("T")


def read_benchmark(path: Path, kind: str, version: int, parse: Callable[[dict[str, Any]], T]) -> T:
    """The content of a benchmark's file.

    Args:
        kind: what it compares.
        parse: makes the content of the JSON object.

    Raises:
        RepositoryError: if it is no benchmark's file, or one of another kind or format.
    """
    try:
        value = read_json(path)
        form, stored = value["format"], value.get("kind", FEATURES)
        if stored != kind or form != version:
            raise RepositoryError(
                f"{path} holds a benchmark of {brief(stored)}, format {brief(form)}, expected one of {kind} in format "
                f"{version}; name another file"
            )
        return parse(value)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, RepositoryError):
            raise
        raise RepositoryError(
            f"{path} is no benchmark's file: {type(error).__name__} {error}; delete it, or name another file"
        ) from error


def check_same(path: Path, found: str, expected: str) -> None:
    """See that the benchmark in a file has the settings and rows of the one that is asked for.

    Raises:
        RepositoryError: if their identities differ.
    """
    if found != expected:
        raise RepositoryError(
            f"{path} holds a benchmark of other settings or rows; delete it, or name another file for this one"
        )


def counts_of(data: Data) -> tuple[dict[str, Any], ...]:
    """Zoo, split, and how many rows, models and groups, of each part of the rows."""
    return tuple(
        {
            "zoo": part.zoo, "split": part.split, "rows": len(part), "models": int(part.models.max()) + 1,
            "groups": part.groups,
        }
        for part in data.parts
    )  # fmt: skip


def rows_of(data: Data) -> list[Any]:
    """The rows of a benchmark as its identity knows them: zoo, count and groups of each part."""
    return [[part.zoo, len(part), sorted(part.families)] for part in data.parts]

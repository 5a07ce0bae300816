"""A benchmark on disk: every result is kept as soon as it is there, and an interrupted benchmark goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo_datasets.evaluation.benchmark.files import FEATURES, check_same, counts_of, read_benchmark, rows_of
from zoo_datasets.evaluation.benchmark.run import Data, Result, Settings, benchmark, read_data
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import write_json
from zoo_datasets.storage.folders import check_output
from zoo_datasets.terminal import Advance

RECORD_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The results of a benchmark and what they were made from.

    Attributes:
        rows: [{"zoo", "split", "rows", "models", "groups"}, …]; a group lies in one split whole.
        skipped: targets that could not be predicted, and why.
        left_out: rows with weights that are not finite.
        identity: a hash of settings and rows; results are used again if it is the same.
    """

    settings: Settings
    rows: tuple[Mapping[str, Any], ...]
    skipped: Mapping[str, str]
    left_out: int
    identity: str
    results: tuple[Result, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": RECORD_FORMAT,
            "settings": asdict(self.settings),
            "rows": [dict(entry) for entry in self.rows],
            "skipped": dict(self.skipped),
            "left_out": self.left_out,
            "identity": self.identity,
            "results": [result.to_dict() for result in self.results],
        }


def read_record(path: Path) -> Record:
    """The record that a file holds.

    Raises:
        RepositoryError: if it is no benchmark's file; names it.
    """
    return read_benchmark(path, FEATURES, RECORD_FORMAT, _record)


def _record(value: dict[str, Any]) -> Record:
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value["settings"].items()}
    return Record(
        settings=Settings(**settings),
        rows=tuple(value["rows"]),
        skipped=value["skipped"],
        left_out=int(value["left_out"]),
        identity=str(value["identity"]),
        results=tuple(Result.from_dict(result) for result in value["results"]),
    )


def run_benchmark(
    repo: str | Path,
    settings: Settings,
    *,
    out: Path | None = None,
    revision: str | None = None,
    progress: Advance | None = None,
) -> Record:
    """Benchmark zoos of a repository.

    Args:
        out: a JSON file that is written after each result. A file of the same settings and rows is continued.

    Raises:
        RepositoryError: if `out` is the file of something else, or the zoos cannot be used; see `read_data`.
    """
    if out is not None:
        check_output(out)
    data = read_data(repo, settings, revision)
    record = _empty(data, settings)
    if out is not None and out.exists():
        earlier = read_record(out)
        check_same(out, earlier.identity, record.identity)
        record = earlier
    results = list(record.results)

    def finished(result: Result) -> None:
        results.append(result)
        if out is not None:
            write_json(out, dataclasses.replace(record, results=tuple(results)).to_dict())

    benchmark(data, settings, done=record.results, finished=finished, progress=progress)
    complete = dataclasses.replace(record, results=tuple(results))
    if out is not None:
        write_json(out, complete.to_dict())
    return complete


def _empty(data: Data, settings: Settings) -> Record:
    return Record(
        settings=settings,
        rows=counts_of(data),
        skipped=data.skipped,
        left_out=data.left_out,
        identity=digest_of([_identity(settings), rows_of(data)]),
        results=(),
    )


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings as hashed; records of versions without protocols keep theirs."""
    value = asdict(settings)
    return value if settings.protocol != "standard" else {k: v for k, v in value.items() if k != "protocol"}

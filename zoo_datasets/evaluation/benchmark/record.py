"""A benchmark on disk: every result is kept as soon as it is there, and an interrupted benchmark goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo_datasets.documents import brief, read_json
from zoo_datasets.errors import RepositoryError
from zoo_datasets.evaluation.benchmark.run import Data, Result, Settings, benchmark, read_data
from zoo_datasets.evaluation.benchmark.samples import SampleRows
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
    try:
        value = read_json(path)
        if value["format"] != RECORD_FORMAT:
            raise RepositoryError(f"{path}: format {brief(value['format'])} found, this version reads {RECORD_FORMAT}")
        settings: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value["settings"].items()
        }
        return Record(
            settings=Settings(**settings),
            rows=tuple(value["rows"]),
            skipped=value["skipped"],
            left_out=int(value["left_out"]),
            identity=str(value["identity"]),
            results=tuple(Result.from_dict(result) for result in value["results"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, RepositoryError):
            raise
        raise RepositoryError(
            f"{path} is no benchmark's file: {type(error).__name__} {error}; delete it, or name another file"
        ) from error


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
        if earlier.identity != record.identity:
            raise RepositoryError(
                f"{out} holds a benchmark of other settings or rows; delete it, or name another file for this one"
            )
        record = earlier
    results = list(record.results)

    def finished(result: Result) -> None:
        results.append(result)
        if out is not None:
            write_json(out, _with(record, results).to_dict())

    benchmark(data, settings, done=record.results, finished=finished, progress=progress)
    complete = _with(record, results)
    if out is not None:
        write_json(out, complete.to_dict())
    return complete


def _with(record: Record, results: list[Result]) -> Record:
    return Record(
        settings=record.settings,
        rows=record.rows,
        skipped=record.skipped,
        left_out=record.left_out,
        identity=record.identity,
        results=tuple(results),
    )


def _empty(data: Data, settings: Settings) -> Record:
    parts = (data.train, data.validation, *data.tests)
    return Record(
        settings=settings,
        rows=tuple(counts_of(rows) for rows in parts),
        skipped=data.skipped,
        left_out=data.left_out,
        identity=digest_of([_identity(settings), [[rows.zoo, len(rows), sorted(rows.families)] for rows in parts]]),
        results=(),
    )


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings as hashed; records of versions without protocols keep theirs."""
    value = asdict(settings)
    return value if settings.protocol != "standard" else {k: v for k, v in value.items() if k != "protocol"}


def counts_of(rows: SampleRows) -> dict[str, Any]:
    """Zoo, split, and how many rows, models and groups."""
    models = int(rows.models.max()) + 1
    return {"zoo": rows.zoo, "split": rows.split, "rows": len(rows), "models": models, "groups": rows.groups}

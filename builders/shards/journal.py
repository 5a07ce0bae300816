"""What a build has finished so far, so that a killed build can resume from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from zoo_datasets.builders.shards.part import BuildJob, Outcome
from zoo_datasets.builders.shards.plan import ShardPart
from zoo_datasets.documents import parse_json, read_bytes
from zoo_datasets.errors import DocumentError, StorageError
from zoo_datasets.repository.places import is_plain
from zoo_datasets.repository.row import REPOSITORY_FORMAT
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.storage.files import sha256_of, temporary_beside
from zoo_datasets.version import __version__

JOURNAL = ".journal"
_LONGEST = 1 << 29  # bytes; what is no journal is begun anew
# Raised where the same source becomes other rows.
_READING = 3

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def key_of(job: BuildJob, parts: Sequence[ShardPart]) -> str:
    """Digest of all that the bytes of the shards depend on: the source's files, the plan, the options, the writers."""
    source = job.source
    return digest_of(
        {
            "versions": [REPOSITORY_FORMAT, __version__, _READING, pa.__version__],
            "source": [source.source_id, source.fingerprint(), source.record({})],
            "config": [job.config, job.keep_nonfinite],
            "models": [
                [model.model_id, dict(model.columns)] for block in source.blocks() for model in block.models
            ],
            "parts": [[part.split, list(part.block.epochs), len(part.block.models)] for part in parts],
        }
    )  # fmt: skip


class Journal:
    """A hidden file in a config's folder with a line for each finished part.

    A line is written when its shard is in place. It is not synced: what a crash of the machine takes away is built
    again, and a shard is compared with its checksum before it counts as finished.
    """

    def __init__(self, repo: Path, config: str, key: str) -> None:
        self._repo = repo
        self._path = repo / config / JOURNAL
        self._key = key
        self._lines: list[bytes] = []
        self._file: BinaryIO | None = None

    def finished(self) -> dict[int, Outcome]:
        """The finished parts of a build of the same source with the same options; none if it was another build."""
        try:
            header, *lines = read_bytes(self._path, _LONGEST).split(b"\n")
        except (FileNotFoundError, DocumentError):
            return {}
        except OSError as error:
            raise self._trouble(error) from error
        if header != self._header:
            return {}
        outcomes: dict[int, Outcome] = {}
        for line in lines:
            entry = _parse(line)
            if entry is not None and self._in_place(entry[1]):
                outcomes[entry[0]] = entry[1]
                self._lines.append(line)
        return outcomes

    def add(self, index: int, outcome: Outcome) -> None:
        """Record that a part is finished.

        Raises:
            StorageError: if the file cannot be written.
        """
        line = json.dumps({"part": index, "outcome": _OUTCOME.dump_python(outcome, mode="json")}).encode()
        try:
            if self._file is None:
                self._file = self._begin()
            self._file.write(line + b"\n")
        except OSError as error:
            raise self._trouble(error) from error

    def close(self) -> None:
        """Close the file and keep it for the next build."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file: the build is finished."""
        self.close()
        self._path.unlink(missing_ok=True)

    @property
    def _header(self) -> bytes:
        return json.dumps({"format": REPOSITORY_FORMAT, "key": self._key}).encode()

    def _begin(self) -> BinaryIO:
        """Put a file with the lines that still count into its place; opened for further ones, unbuffered."""
        with temporary_beside(self._path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in (self._header, *self._lines)))
            temporary.replace(self._path)
        return cast(BinaryIO, self._path.open("ab", buffering=0))

    def _in_place(self, outcome: Outcome) -> bool:
        if outcome.written is None:
            return True
        shard = outcome.written.shard
        file = self._repo / shard.path
        if not is_plain(shard.path) or file.is_symlink() or not file.is_file():
            return False
        return file.stat().st_size == shard.bytes and sha256_of(file) == shard.sha256

    def _trouble(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._path} could not be read or written: {error.strerror or error}; the repository is unchanged. "
            "Free space or choose another folder, then run the command again"
        )


def _parse(line: bytes) -> tuple[int, Outcome] | None:
    """The part number and outcome of a line; None if it is incomplete or invalid."""
    try:
        value: Any = parse_json(line)
        return int(value["part"]), _OUTCOME.validate_python(value["outcome"])
    except (ValueError, KeyError, TypeError, OverflowError, ValidationError):
        return None

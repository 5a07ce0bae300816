"""Files of a cohort with the checksums that they carry: read as they were written, or refused with what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
from safetensors.torch import save
from torch import Tensor

from zoo_datasets.errors import DamagedError, RunError
from zoo_datasets.storage.checksums import RECORD, Record, read_record, write_checked
from zoo_datasets.text import one_line

MEMBERS = "members.json"
# What readers raise of a file that is not what it should be.
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RuntimeError, AttributeError,
    pa.ArrowException, safetensors.SafetensorError,
)  # fmt: skip


@contextlib.contextmanager
def reading(file: Path, remedy: str) -> Iterator[None]:
    """Make an error of ours of whatever reading a file raises, with what to do about it."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}; {remedy}") from error
    except RunError:
        raise
    except UNREADABLE as error:
        raise RunError(f"{file} could not be read: {one_line(error)[:200]}; {remedy}") from error


class CheckedFiles:
    """The records of files that were read: each file is hashed once, as long as it stays as it is.

    Attributes:
        unchecked: names of the files read so far that carry no checksum.
    """

    def __init__(self) -> None:
        self.unchecked: set[str] = set()
        self._records: dict[str, tuple[tuple[int, ...], Record | None]] = {}

    def check(self, file: Path, members: str, epoch: int | None = None) -> Record | None:
        """The record of a file that holds what was written, of these members and of `epoch` where one is given; None
        where it carries none.

        Args:
            members: their digest.

        Raises:
            DamagedError: if it does not.
            OSError: if it cannot be read.
        """
        status = file.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        before, record = self._records.get(file.name, ((), None))
        if before != stamp:
            record = read_record(file)
            self._records[file.name] = stamp, record
        if record is None:
            self.unchecked.add(file.name)
            return None
        if record.members != members:
            raise DamagedError(f"{file} is of other models than {MEMBERS} beside it lists")
        if epoch is not None and record.epoch != epoch:
            raise DamagedError(f"{file} was written after epoch {record.epoch}, expected epoch {epoch}")
        return record


def write_tensors(file: Path, tensors: Mapping[str, Tensor], record: Record) -> None:
    """Write a safetensors file that carries a record and its checksum."""
    # One metadata key only: safetensors writes several in random order.
    metadata = {RECORD: record.line()}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    write_checked(file, data)


def write_table(file: Path, table: pa.Table, record: Record) -> None:
    """Write a Parquet file that carries a record and its checksum."""
    table = table.combine_chunks()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({RECORD: record.line()})
    write_checked(file, sink.getvalue().to_pybytes())

"""One part of a build: the states that become one shard, and its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from zoo_datasets.builders.shards.ahead import ReadAhead
from zoo_datasets.builders.shards.plan import ShardPart
from zoo_datasets.builders.shards.rows import RowMaker, together, without_nonfinite
from zoo_datasets.builders.shards.writer import ShardWriter, Written
from zoo_datasets.builders.sources.base import SMALL_PIECE_BYTES, Source, States
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.records import LeftOut

OnBad = Literal["leave out", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """What all parts of a build have in common.

    Attributes:
        ahead: reads the source where one thread writes all parts in their order.
    """

    source: Source
    repo: Path
    config: str
    keep_nonfinite: bool = False
    on_bad: OnBad = "leave out"
    ahead: ReadAhead | None = None

    def read(self, part: ShardPart) -> Iterator[States | LeftOut]:
        """The states of a part, which were perhaps read ahead."""
        return self.source.read(part.block) if self.ahead is None else self.ahead.read(part)

    def refuse(self, entries: Iterable[LeftOut]) -> None:
        """Raise for the first state left out, unless leaving out is allowed.

        Raises:
            SourceError: naming the state and the reason.
        """
        for entry in entries if self.on_bad == "fail" else ():
            epochs = f" at epoch {', '.join(map(str, entry.epochs[:5]))}" if entry.epochs else ""
            raise SourceError(
                f"{self.source.name}: {entry.model}{epochs}: {entry.reason}; nothing was written to {self.repo}. "
                "Without --on-bad fail it would be left out and listed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of a part.

    Attributes:
        written: its shard; None if it has no row.
        states: number of its rows.
        models: ids of the models of which there are rows.
        tallies: the sums of the tallies of its `States`.
    """

    written: Written | None
    states: int
    models: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    tallies: Mapping[str, int]

    @property
    def done(self) -> int:
        """Number of states that were read or left out."""
        return self.states + sum(len(entry.epochs) for entry in self.left_out)


def write_part(
    job: BuildJob, rows: RowMaker, part: ShardPart, progress: Callable[[int], None] | None = None
) -> tuple[Outcome, pa.Table | None]:
    """Read a part and write its shard; also returns its rows, if any, without the columns as wide as the weights.

    Args:
        rows: makes the rows of `job.source`.
        progress: called with the number of states done since the last call.

    Raises:
        SourceError: if a state cannot be a row and none may be left out.
        StorageError: if the shard cannot be written.
    """
    states = 0
    few = max(SMALL_PIECE_BYTES // job.source.row_bytes, 1)
    models: dict[str, None] = {}
    left_out: list[LeftOut] = []
    tallies: Counter[str] = Counter()
    schema = rows.shard_schema({layout for model in part.block.models for layout in model.layouts})
    with ShardWriter(job.repo, job.config, part.split, schema, part.place) as writer:
        for item in together(job.read(part), few):
            if isinstance(item, LeftOut):
                dropped = [item]
            else:
                tallies.update(item.tallies)
                kept, dropped = (item, []) if job.keep_nonfinite else without_nonfinite(item)
                if kept.models:
                    writer.add(rows.batch(kept))
                states += len(kept.models)
                models.update(dict.fromkeys(model.model_id for model in kept.models))
                if progress is not None:
                    progress(len(kept.models))
            job.refuse(dropped)
            left_out += dropped
            if progress is not None and dropped:
                progress(sum(len(entry.epochs) for entry in dropped))
        written = writer.close()
    outcome = Outcome(
        written=written, states=states, models=tuple(models), left_out=tuple(left_out), tallies=dict(tallies)
    )
    return outcome, writer.rows

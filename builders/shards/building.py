"""One build under way: its parts, their outcomes, and the result."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from zoo_datasets.builders.shards.journal import Journal, key_of
from zoo_datasets.builders.shards.part import BuildJob, Outcome
from zoo_datasets.builders.shards.plan import ShardPart, plan
from zoo_datasets.builders.shards.workers import run_parts
from zoo_datasets.builders.shards.writer import Written, sync
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.records import Count, LeftOut, Shard
from zoo_datasets.repository.row import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build did.

    Attributes:
        rows, models: written, over all splits.
        epochs: of which there are rows, ascending.
        splits: rows of each split that has any.
        shards_written, shards_reused: new files, and files that were there already.
        shards_resumed: of both, those that an interrupted build had finished.
        bytes: of all shards.
        codes: of those warnings that are notes about the source; `zoo build --strict` makes them errors.
    """

    config: str
    rows: int
    models: int
    epochs: tuple[int, ...]
    splits: Mapping[str, int]
    shards_written: int
    shards_reused: int
    shards_resumed: int
    bytes: int
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    codes: Mapping[str, str]


@dataclass(kw_only=True)
class Building:
    """One build under way, with the outcomes of its parts so far.

    Attributes:
        rows: of the shards that this process wrote, by path, without the columns as wide as the weights.
    """

    job: BuildJob
    num_proc: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    rows: dict[str, pa.Table] = field(default_factory=dict)
    resumed: int = 0

    @functools.cached_property
    def refused(self) -> Sequence[LeftOut]:
        """What the source excludes before any state is read."""
        return self.job.source.refused()

    @functools.cached_property
    def parts(self) -> list[ShardPart]:
        """The parts of the source, one for each shard."""
        source = self.job.source
        return plan(source.blocks(), source.row_bytes, source.states)

    @functools.cached_property
    def journal(self) -> Journal:
        """The journal of finished parts."""
        return Journal(self.job.repo, self.job.config, key_of(self.job, self.parts))

    def write_shards(self, progress: Callable[[int, int], None]) -> None:
        """Write all unfinished shards, and sync every shard to disk."""
        self.job.refuse(self.refused)
        self.outcomes = self.journal.finished()
        self.resumed = len(self.written)
        for outcome in self.outcomes.values():
            self.job.refuse(outcome.left_out)
        done = self.states_left_out + self.states

        def advance(states: int) -> None:
            nonlocal done
            done += states
            progress(done, self.job.source.states)

        advance(0)
        missing = {index: part for index, part in enumerate(self.parts) if index not in self.outcomes}
        syncing = ThreadPoolExecutor(1)
        synced = [syncing.submit(sync, self.job.repo / one.shard.path) for one in self.written]
        try:
            with contextlib.closing(run_parts(self.job, missing, self.num_proc, advance)) as finished:
                for index, outcome, rows in finished:
                    self.outcomes[index] = outcome
                    if outcome.written is not None:
                        path = outcome.written.shard.path
                        self.rows[path] = rows
                        synced.append(syncing.submit(sync, self.job.repo / path))
                    self.journal.add(index, outcome)
            for one in synced:
                one.result()
        finally:
            syncing.shutdown(cancel_futures=True)
            self.journal.close()

    @property
    def written(self) -> list[Written]:
        """The shards, in the order of their parts."""
        return [one.written for _, one in sorted(self.outcomes.items()) if one.written is not None]

    @property
    def states(self) -> int:
        """Number of rows."""
        return sum(one.states for one in self.outcomes.values())

    @property
    def left_out(self) -> dict[tuple[str, str], list[int]]:
        """Epochs left out, by model and reason."""
        epochs: dict[tuple[str, str], list[int]] = {}
        parts = [one.left_out for _, one in sorted(self.outcomes.items())]
        for entry in itertools.chain(self.refused, *parts):
            epochs.setdefault((entry.model, entry.reason), []).extend(entry.epochs)
        return epochs

    @property
    def states_left_out(self) -> int:
        """Number of states left out."""
        return sum(map(len, self.left_out.values()))

    @property
    def tallies(self) -> Counter[str]:
        """The tallies of all states, summed."""
        return sum((Counter(one.tallies) for one in self.outcomes.values()), Counter())

    @property
    def num_bytes(self) -> dict[str, int]:
        """Size in memory of each split that has rows."""
        sizes: Counter[str] = Counter()
        for one in self.written:
            sizes[one.shard.split] += one.num_bytes
        return {split: sizes[split] for split in SPLITS if sizes[split]}

    def discard(self) -> None:
        """Remove the shards that this build added."""
        for one in self.written:
            if not one.reused:
                (self.job.repo / one.shard.path).unlink(missing_ok=True)
        self.journal.remove()

    def manifest(self) -> Manifest:
        """The manifest of what was written; its counts add up, or the source contradicts itself."""
        source, left_out = self.job.source, self.left_out
        states, missing = self.states, sum(map(len, left_out.values()))
        models = len({model for one in self.outcomes.values() for model in one.models})
        if states + missing != source.states:
            self.discard()
            raise SourceError(
                f"{source.name}: {source.states:,} states were expected, but {states:,} were read and "
                f"{missing:,} left out; was the source changed while it was read? Run the command again"
            )
        return Manifest(
            config=self.job.config,
            source_id=source.source_id,
            zoo=source.zoo,
            source=source.record(self.tallies),
            network=source.network,
            layout=None if source.network is None else source.layout,
            keep_nonfinite=self.job.keep_nonfinite,
            extras=tuple(source.extras),
            unknown=tuple(source.unknown),
            open=None if source.open_columns is None else source.open_columns.rows,
            models=Count(found=source.models, written=models, left_out=source.models - models),
            states=Count(found=source.states, written=states, left_out=missing),
            shards=tuple(sorted((one.shard for one in self.written), key=_split_order)),
            left_out=tuple(
                LeftOut(model=model, epochs=tuple(epochs), reason=reason)
                for (model, reason), epochs in left_out.items()
            ),
        )

    def result(self, manifest: Manifest) -> BuildResult:
        """The result as reported to the user."""
        missing = [split for split in SPLITS if split not in manifest.splits]
        warnings = [
            f"split {split!r} of {self.job.config} is empty: none of its {manifest.models.written:,} models falls into "
            "it; load_dataset will not list it"
            for split in missing
        ]
        if manifest.states.left_out:
            states = manifest.states
            warnings.append(f"{states.left_out:,} of {states.found:,} states are left out: {reasons(manifest)}")
        codes = self.job.source.notes(self.tallies).lines()
        return BuildResult(
            config=self.job.config,
            rows=manifest.rows(),
            models=manifest.models.written,
            epochs=tuple(manifest.epochs),
            splits=manifest.splits,
            shards_written=sum(not one.reused for one in self.written),
            shards_reused=sum(one.reused for one in self.written),
            shards_resumed=self.resumed,
            bytes=sum(shard.bytes for shard in manifest.shards),
            left_out=manifest.left_out,
            warnings=(*warnings, *codes),
            codes=codes,
        )


def _split_order(shard: Shard) -> tuple[int, str]:
    """Splits in their usual order; within one, shards by place, which is that of their names."""
    return SPLITS.index(shard.split), shard.path


def reasons(manifest: Manifest) -> str:
    """States left out by reason, the most frequent first."""
    counts: dict[str, int] = {}
    for entry in manifest.left_out:
        counts[entry.reason] = counts.get(entry.reason, 0) + len(entry.epochs)
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = "; ".join(f"{count:,} × {reason}" for reason, count in ordered[:5])
    return shown + (f"; and {len(ordered) - 5} more reasons in manifest.json" if len(ordered) > 5 else "")

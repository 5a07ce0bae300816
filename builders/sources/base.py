"""The interface of sources: blocks of models × epochs, and their states read one piece at a time."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from zoo_datasets.builders.shards.notes import Notes
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import HYPERPARAMETERS, Column, OpenRows
from zoo_datasets.repository.where import Condition
from zoo_datasets.runs.rows import Model
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.spec import digest_of

# Of weights that are read and written at a time, where one epoch has less.
SMALL_PIECE_BYTES = 4_000_000


NOT_FINITE = "weights are not finite (the model diverged)"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBlock:
    """Models × epochs that came into the source together. Shards never cross blocks, so that a source
    that grew gives its earlier shards again, byte for byte."""

    models: tuple[Model, ...]
    epochs: tuple[int, ...]

    def at(self, epoch: int) -> StateBlock:
        """The same models at one epoch."""
        return dataclasses.replace(self, epochs=(epoch,))

    def of(self, split: str) -> StateBlock:
        """The models of one split."""
        return dataclasses.replace(self, models=tuple(model for model in self.models if model.split == split))

    def by_split(self) -> dict[str, StateBlock]:
        """The models of each split that has any."""
        models: dict[str, list[Model]] = {}
        for model in self.models:
            models.setdefault(model.split, []).append(model)
        return {split: dataclasses.replace(self, models=tuple(here)) for split, here in models.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Some models, each at an epoch: one row each.

    Attributes:
        epochs: of the rows, ascending; models come again at a later epoch.
        weights: float32 [len(models), D].
        figures: arrays of length len(models) by column, for columns that change with the epoch; a column
            that is absent is null.
        extras: by column, all of the source's `extras` that are as wide as the weights: float32 [len(models), D]; the
            others are figures.
        tallies: counts by what is counted, as `sparsity/as recorded`; `describe` and `notes` are given their sums.
        layout: of an open source, the hash of the layout that all of them have.
        raw: of an open source, the bytes of the raw tensors of each; None: the layout has none.
    """

    epochs: Sequence[int]
    models: Sequence[Model]
    weights: Tensor
    figures: Mapping[str, pa.Array]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    tallies: Mapping[str, int] = field(default_factory=dict)
    layout: str | None = None
    raw: Sequence[bytes] | None = None

    def select(self, positions: Sequence[int]) -> States:
        """The rows at these positions."""
        if len(positions) == len(self.models):
            return self
        indices = pa.array(positions, pa.int64())
        rows = torch.tensor(positions, dtype=torch.int64)
        return States(
            epochs=[self.epochs[position] for position in positions],
            models=[self.models[position] for position in positions],
            weights=self.weights[rows],
            figures={name: values.take(indices) for name, values in self.figures.items()},
            extras={name: values[rows] for name, values in self.extras.items()},
            tallies=self.tallies,
            layout=self.layout,
            raw=None if self.raw is None else [self.raw[position] for position in positions],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenColumns:
    """What an open source says of its rows before any is read.

    Attributes:
        further: columns of its own beside the standard ones, which are `figures` of its `States` like these.
        records: the networks of its rows, by hash; of several, the rows are lists of any length.
        weights: the mean of D over its states.
    """

    records: Mapping[str, NetworkRecord]
    further: tuple[Column, ...] = ()
    weights: float = 0.0

    @property
    def rows(self) -> OpenRows:
        """The columns of its config."""
        sizes = {record.layout.size for record in self.records.values()}
        one = next(iter(sizes)) if len(self.records) == 1 else None
        raw = any(record.layout.raw_bytes for record in self.records.values())
        return OpenRows(further=self.further, size=one or None, raw=raw)


_UNLIMITED = Limits()
_AS_THEY_ARE = StateDictOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a source is to be read.

    Attributes:
        name: of the config, if the user gave one; it also supplies what the source's own name omits.
        epochs, models, where: the selection: these epochs, the first `models` models, the rows matching `where`.
        limits: on the images, as in training; of sources that do not record them.
        parents: location of the parents of twins: a path or a URL.
        keep_log_sigma2: whether log σ² of twins, and what the recorded losses are made of, become columns too.
        images: a folder with the images, to recompute losses that are recorded with something added to them.
        state_dicts: what is told of files of state dicts.
        splits: a file that tells the authors' split of a state or model by its number, path or id.
        num_proc: threads that list the files of the source.
    """

    name: str | None = None
    epochs: frozenset[int] | None = None
    models: int | None = None
    where: Condition | None = None
    limits: Limits = _UNLIMITED
    parents: Path | str | None = None
    keep_log_sigma2: bool = False
    images: Path | None = None
    state_dicts: StateDictOptions = _AS_THEY_ARE
    splits: Path | None = None
    num_proc: int = 1

    @property
    def everything(self) -> bool:
        """Whether all states of the source are selected."""
        return self.epochs is None and self.models is None and self.where is None

    def selection(self) -> dict[str, Any]:
        """The selection as a manifest records it; empty if it is everything."""
        wanted = {
            "epochs": None if self.epochs is None else sorted(self.epochs),
            "models": self.models,
            "where": None if self.where is None else self.where.text,
        }
        return {key: value for key, value in wanted.items() if value is not None}


class Source(ABC):
    """A population somewhere: the one thing a builder knows. Each kind of source is one file, and writes what it has:
    the attributes without a value, and the methods that are abstract. One of your own is the same, and needs no entry
    in a table: `build_from(source, repo)` and `zoo_builder(source)` take it.

    A source is open, with `open_columns` and `States` that name their layout, unless all its rows are classifiers of
    one `network` of the table of architectures. What its models are before they are read belongs into `Model.columns`,
    what changes with the state into `States.figures`; either may be any standard column or one of `further`.

    `models` and `states` count everything found, including what is left out: the entries of `refused`, plus the states
    and left-out entries that `read` yields over all blocks, add up to them.

    Attributes:
        name: of the zoo, and of the config unless another is asked for.
        network: of all its models; None if the source is open.
        open_columns: of an open source, its columns and networks; None: all its rows are classifiers of `network`.
        models, states: numbers found.
        kind: what a manifest calls this kind of source.
        credit: whose the models are.
        extras: columns of the weights' type beside them, of `schema.EXTRAS`.
        keeps_nonfinite: whether states with NaN or infinite weights are rows without being asked for.
        tells_splits: whether it reads the file of the authors' splits by itself.
    """

    name: str
    network: NetworkKind | None = None
    open_columns: OpenColumns | None = None
    models: int
    states: int
    kind: str
    credit: Credit = Credit()
    extras: tuple[str, ...] = ()
    keeps_nonfinite: bool = False
    tells_splits: bool = False

    @property
    def source_id(self) -> str:
        """Equal for two sources if one may grow into the other; unless a kind says more, those of one name."""
        return digest_of([self.kind, self.name])

    @property
    def layout(self) -> WeightLayout:
        """Of the weights of all its models; an open source has none."""
        assert self.network is not None
        return self.network.layout

    @property
    def row_bytes(self) -> int:
        """Bytes of the raw weights of a row; of an open source their mean."""
        if self.open_columns is not None:
            return max(int(4 * self.open_columns.weights), 4)
        assert self.network is not None
        return 4 * self.network.layout.size

    @property
    def zoo(self) -> Mapping[str, Any]:
        """The known fields of the zoo's spec."""
        return {"name": self.name} | ({} if self.network is None else {"architecture": self.network.architecture})

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What the manifest records of the source besides kind and credit, as JSON values; the same for the same
        content.

        `tallies` are the sums of those of all states.
        """
        return {}

    def record(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """All that the manifest records of the source."""
        return {"kind": self.kind, "credit": self.credit.to_dict()} | self.describe(tallies)

    def notes(self, tallies: Mapping[str, int]) -> Notes:
        """Irregularities that excluded no state."""
        return Notes()

    @property
    def unknown(self) -> Sequence[str]:
        """The columns of `HYPERPARAMETERS` that are null for some of its models, in the schema's order."""
        if self.open_columns is not None:
            return ()
        return unknown_columns(model for block in self.blocks() for model in block.models)

    def refused(self) -> Sequence[LeftOut]:
        """What is excluded before any state is read, each with its reason."""
        return ()

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the source's files change; cheap."""

    @abstractmethod
    def blocks(self) -> Sequence[StateBlock]:
        """All its models and epochs, oldest first."""

    @abstractmethod
    def read(self, block: StateBlock) -> Iterator[States | LeftOut]:
        """The states of a block, or of a part of one: by epoch, then in the order of `block.models`.

        Yields a piece at a time, so that no more than a cohort is ever held, or some small epochs; a state that cannot
        be read is yielded as `LeftOut` with its reason. Several threads may each read a block at a time.
        """


def unknown_columns(models: Iterable[Model | None]) -> tuple[str, ...]:
    """The hyperparameters that are null for some models, in the schema's order."""
    rows = [model.columns for model in models if model is not None]
    return tuple(name for name in HYPERPARAMETERS if any(row.get(name) is None for row in rows))

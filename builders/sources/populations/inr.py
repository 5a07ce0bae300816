"""Published sets of INRs as sources: each file is a network that holds one signal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.folder import StateDictSource
from zoo_datasets.builders.sources.populations.inr_sets import INR_SETS, InrSet, images_named
from zoo_datasets.builders.sources.splits import SOURCE_SPLIT
from zoo_datasets.builders.state_dicts.names import MODEL_ID, common_folder, is_state_file
from zoo_datasets.builders.state_dicts.population import Population, population_of
from zoo_datasets.documents import MAX_JSON, finite_number, parse_json, read_json
from zoo_datasets.errors import CheckpointError, DocumentError, LayoutError, SourceError, UnknownNameError
from zoo_datasets.networks.fields import CONVENTION_COLUMNS, FIELD, SIREN, Convention, field_layers
from zoo_datasets.networks.kind import KIND_COLUMNS
from zoo_datasets.networks.layers.chain import inputs_of, tensors_of
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.row import STANDARD
from zoo_datasets.repository.where import Condition, parse_where

_LOOKED_AT = 64  # files of tensors whose names tell which set it is
_TYPES: Mapping[str, pa.DataType] = {
    "images": pa.string(),
    "label": pa.int64(),
    "signal_index": pa.int64(),
    "signal_split": pa.string(),
    SOURCE_SPLIT: pa.string(),
    "group": pa.string(),
    "copy": pa.int64(),
    "seed": pa.int64(),
    "psnr": pa.float64(),
    "task": pa.string(),
    **{name: pa.float64() for name in CONVENTION_COLUMNS[:3]},
    **{name: pa.string() for name in CONVENTION_COLUMNS[3:]},
}
_DOCS = {
    "images": "the data set of the signals, from names of files",
    "label": "class of the signal, from names of files",
    "signal_index": "number of the signal in its data set, from names of files",
    "signal_split": "the part of the data set in which signal_index counts; train+test: one after the other",
    SOURCE_SPLIT: "the authors' split, from names of files",
    "group": "the signal: networks of one signal lie in one split",
    "copy": "number of the augmented copy; null of the original",
    "seed": "seed of the initialisation, from names of files",
    "psnr": "dB of the fitted signal, from the authors' JSON",
    "omega": "ω₀ of the first layer, sin(ω₀(Wx+b))",
    "omega_hidden": "ω₀ of the other hidden layers",
    "output_offset": "added to the output of the last layer",
    "grid": "where pixels are: xy, the first coordinate is the column; yx, it is the row; then both ends",
    "signal_mean": "of each channel: the network gives (pixel − mean) / std",
    "signal_std": "of each channel, as signal_mean",
}


def inr_set_of(place: Place) -> InrSet | None:
    """The set whose files a place holds, by their names; None where it is none of them."""
    names = list(itertools.islice(_state_files(place), _LOOKED_AT))
    if not names:
        return None
    whole = place.resolve().as_posix() if isinstance(place, Path) else place.name
    called = f"{whole.rpartition('/')[2]}/{names[0]}"
    for each in INR_SETS:
        if any(each.pattern.search(name) for name in names) and (each.called is None or each.called.search(called)):
            return each
    return None


def _state_files(place: Place) -> Iterator[str]:
    if not isinstance(place, Path):
        yield from filter(is_state_file, place.entries)
    elif place.is_dir():
        files = (path.relative_to(place).as_posix() for path in place.rglob("*.[pc][tk]*") if not path.is_symlink())
        yield from filter(is_state_file, files)


def is_inrs(place: Place) -> bool:
    """Whether a place holds a published set of INRs: a folder or an archive of one."""
    return inr_set_of(place) is not None


class InrNames:
    """What the names of a set's files say: which network it is."""

    fields: tuple[str, ...] = (MODEL_ID,)

    def __init__(self, inr_set: InrSet, folder: str) -> None:
        self.text = f"those of {inr_set.title}"
        self._pattern, self._folder = inr_set.pattern, folder

    def values(self, path: str) -> Mapping[str, str] | None:
        """The id: the path from the folder of all networks on, and no more than tells them apart."""
        match = self._pattern.search(path)
        if match is None:
            return None
        return {MODEL_ID: path[min(len(self._folder), match.start("id")) : match.end("id")]}


class InrTold:
    """What is published of a set, for the files of one source.

    Args:
        figures: the authors' PSNR of networks in a file outside of the container, by name.
        has_splits: whether the user tells the splits.
    """

    docs: Mapping[str, str] = _DOCS

    def __init__(
        self, inr_set: InrSet, container: Container, named: str | None, figures: Mapping[str, Any], has_splits: bool
    ) -> None:
        self._set, self._named, self._has_splits = inr_set, named, has_splits
        self._figures = figures
        files = [name for name in container.entries if inr_set.pattern.search(name)]
        self.names = InrNames(inr_set, common_folder(files))
        self._notes: list[Note] = []

    def notes(self) -> Sequence[Note]:
        """What its files contradict each other in."""
        return self._notes

    def beside(self, container: Container) -> Sequence[str]:
        """JSON files that tell PSNR and splits."""
        figures, splits = self._set.figures, self._set.splits
        return [
            name
            for name in container.entries
            if (figures is not None and figures.search(name)) or (splits is not None and name.split("/")[-1] == splits)
        ]

    def columns(self, container: Container, names: Sequence[str]) -> Mapping[str, pa.Array]:
        """See `Told.columns`."""
        matches = [self._set.pattern.search(name) for name in names]
        said = [self._set.read(match, self._named) for match in matches if match is not None]
        values: dict[str, list[Any]] = {name: [each[name] for each in said] for name in (said[0] if said else ())}
        documents = {name: _document(container, name) for name in self.beside(container)}
        psnr = self._psnr(names, documents)
        if any(number is not None for number in psnr):
            values["psnr"] = psnr
        if self._set.splits is not None:
            self._cut(names, values, documents)
        if self._has_splits:
            values.pop(SOURCE_SPLIT, None)
        facts = {"task": FIELD, **self._set.convention.columns()}
        values |= {name: [value] * len(names) for name, value in facts.items()}
        return {name: pa.array(column, _TYPES[name]) for name, column in values.items()}

    def _psnr(self, names: Sequence[str], documents: Mapping[str, Any]) -> list[float | None]:
        """The PSNR of each network in dB; null where nothing tells it, or files tell it twice and not alike."""
        found: dict[tuple[str, str], set[float]] = {}
        for path, document in [*documents.items(), ("", self._figures)]:
            if self._set.figures is not None and (not path or self._set.figures.search(path)):
                for key, number in _numbers(document):
                    found.setdefault((path.rpartition("/")[0], key), set()).add(number)
        result: list[float | None] = []
        for name in names:
            match = self._set.pattern.search(name)
            called = "" if match is None else match[self._set.figures_by]
            key = str(int(called)) if called.isdigit() else called
            near = next((found[folder, key] for folder in _folders_of(name) if (folder, key) in found), set())
            result.append(next(iter(near)) if len(near) == 1 else None)
        if twice := sum(len(numbers) > 1 for numbers in found.values()):
            text = f"{twice:,} networks have two PSNR in the authors' files; theirs is null"
            self._notes.append(Note("inr-psnr-twice", text, whole=True))
        return result

    def _cut(self, names: Sequence[str], values: dict[str, list[Any]], documents: Mapping[str, Any]) -> None:
        """Take the splits that the authors' file lists, by the last two parts of paths."""
        lists = next((document for path, document in documents.items() if path.endswith(str(self._set.splits))), None)
        if not isinstance(lists, dict):
            return
        splits = {
            "/".join(path.replace("\\", "/").split("/")[-2:]): split
            for split, paths in lists.items()
            if isinstance(paths, list) and isinstance(split, str) and split.isprintable()
            for path in paths
            if isinstance(path, str)
        }
        values[SOURCE_SPLIT] = [splits.get("/".join(name.split("/")[-2:])) for name in names]
        if lost := sum(split is None for split in values[SOURCE_SPLIT]):
            text = f"{self._set.splits} names no split of {lost:,} of {len(names):,} networks"
            self._notes.append(Note("splits-without", text, whole=True))


class InrSource(StateDictSource):
    """A published set of INRs: state dicts with what is known of them."""

    kind = "INRs"

    def __init__(self, container: Container, reading: Reading, inr_set: InrSet, told: InrTold) -> None:
        self._set, self._told = inr_set, told
        super().__init__(container, reading)
        self.credit = inr_set.credit

    @classmethod
    def open(cls, place: Place, reading: Reading) -> StateDictSource:
        """The networks in a folder or an archive, local or remote; as any state dicts where the user reads their names.

        Raises:
            SourceError: if it is no such set, or what is told of it contradicts itself.
        """
        if reading.state_dicts.pattern is not None:  # who knows better
            return StateDictSource.open(place, reading)
        inr_set = inr_set_of(place)
        if inr_set is None:
            raise SourceError(f"{place if isinstance(place, Path) else place.name} holds no published set of INRs")
        container = open_container(place, reading.num_proc) if isinstance(place, Path) else place
        beside = place.resolve().parent if isinstance(place, Path) else place.beside
        named = images_named(container.name) or images_named(reading.name or "")
        told = InrTold(inr_set, container, named, _outside(inr_set, beside), reading.splits is not None)
        if reading.name is None:
            reading = dataclasses.replace(reading, name=_name_of(inr_set, container, named))
        return cls(container, reading, inr_set, told)

    def _found(self, container: Container, reading: Reading) -> Population:
        population = population_of(
            container, reading.state_dicts, container.name, reading.epochs, self._told, self._chosen
        )
        networks = {filling: _network(filling.layout) for filling in population.fillings}
        for name in KIND_COLUMNS:
            values = [networks[state.filling][name] for state in population.states]
            population.columns[name] = pa.array(values, STANDARD[name].type)
            population.origins[name] = "shapes of the tensors"
        population.columns["activation"] = pa.array(
            [None if networks[state.filling]["architecture"] is None else "sine" for state in population.states]
        ).cast(pa.string())
        return population

    def _chosen(self, columns: Mapping[str, pa.Array]) -> Sequence[int]:
        """The networks that can be among those that the user selects, as far as is known before files are read."""
        reading = self._reading
        further = {name: values.type for name, values in columns.items() if name not in STANDARD}
        table = pa.table({name: values for name, values in columns.items() if name != "group"})
        where: Condition | None = reading.where
        if reading.state_dicts.where is not None:
            try:
                where = parse_where(reading.state_dicts.where, further)
            except UnknownNameError:  # it may be a column of the files
                return range(len(table))
        kept = range(len(table)) if where is None else where.possible(table).tolist()
        if reading.models is None or (where is not None and not where.columns <= {*table.column_names}):
            return kept
        ids = columns[MODEL_ID].to_pylist()
        wanted = {*sorted({ids[place] for place in kept})[: reading.models]}
        return [place for place in kept if ids[place] in wanted]

    @property
    def zoo(self) -> Mapping[str, Any]:
        """Its images, if all networks are of one data set; its architecture and task."""
        images = self._population.columns["images"].unique().to_pylist() if self._population.states else []
        own = {"images": images[0]} if len(images) == 1 and images[0] is not None else {}
        return {"name": self.name, **own, "architecture": SIREN, "task": FIELD}

    def describe(self, tallies: Mapping[str, int]) -> dict[str, Any]:
        """As state dicts, and which set it is and where its convention stands."""
        convention = {name: value for name, value in self._set.convention.columns().items() if value is not None}
        own = {"population": self._set.title, "convention": convention, "convention_from": self._set.code}
        return super().describe(tallies) | own


def _network(layout: WeightLayout) -> dict[str, Any]:
    """The columns of `KIND_COLUMNS`, as far as the tensors are a network of sines."""
    try:
        layers = field_layers(layout, Convention(omega=1.0, output_offset=0.0))
    except LayoutError:
        return dict.fromkeys(KIND_COLUMNS)
    outputs = [tensor.shape[0] for tensor in tensors_of(layers)][-1]
    return {"architecture": SIREN, "in_channels": inputs_of(layers), "classes": outputs}


def _name_of(inr_set: InrSet, container: Container, named: str | None) -> str:
    """What the config is called: the set, and the images if all its networks have the same."""
    matches = map(inr_set.pattern.search, container.entries)
    images = {inr_set.read(match, named)["images"] for match in matches if match is not None} - {None}
    return "_".join([inr_set.name, *(images if len(images) == 1 else ()), "inrs"])


def _outside(inr_set: InrSet, folder: Path | None) -> Mapping[str, Any]:
    """The PSNR that a file beside the source tells."""
    if inr_set.figures is None or folder is None:
        return {}
    for path in sorted(folder.glob("*.json"))[:_LOOKED_AT]:
        if inr_set.figures.search(path.name) and path.is_file() and not path.is_symlink():
            try:
                value = read_json(path)
            except (OSError, DocumentError):
                return {}
            return value if isinstance(value, dict) else {}
    return {}


def _document(container: Container, path: str) -> Any:
    try:
        return parse_json(container.read(path, MAX_JSON))
    except (CheckpointError, DocumentError) as error:
        raise SourceError(f"{container.name}: {path[:200]}: {error}") from error


def _numbers(document: Any) -> Iterator[tuple[str, float]]:
    """Finite numbers by name."""
    for key, value in document.items() if isinstance(document, dict) else ():
        if (number := finite_number(value)) is not None:
            yield key, number


def _folders_of(path: str) -> Iterator[str]:
    """The folders that a file is in, the nearest first, the last one being the top."""
    while path:
        path = path.rpartition("/")[0]
        yield path

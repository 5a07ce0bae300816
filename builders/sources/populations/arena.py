"""Neural Field Arena: networks that fit-a-nef fitted, thousands in an HDF5 file (Papa et al.: How to Train Neural Field
Representations, CVPR 2024).

A file holds `params` [n, P], and in `param_config` the names and shapes of the tensors in the order of the vector, as
flax has them: bias before kernel, kernels [in, out]. Rows have them as torch does: weights [out, in] before biases.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_datasets.builders.containers.isolated.hdf5_file import Hdf5File
from zoo_datasets.builders.containers.isolated.process import Isolated, check_installed
from zoo_datasets.builders.containers.locate import Place
from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.builders.sources.populations.inr_sets import signal_group
from zoo_datasets.builders.sources.populations.listed import ListedSource, Listing, further, table_of
from zoo_datasets.builders.state_dicts.columns import column_name
from zoo_datasets.documents import brief, finite_number, parse_json, read_json
from zoo_datasets.errors import CheckpointError, DocumentError, LayoutError, SourceError
from zoo_datasets.networks.fields import FIELD, SIREN
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.populations import ARENA
from zoo_datasets.repository.records import LeftOut
from zoo_datasets.repository.row import LAYOUT, further_problem
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.text import counted

NEF: Final = "nef.json"
_FILE = re.compile(r"(?P<prefix>.*)nefs_(?P<start>\d{1,9})-(?P<end>\d{1,9})\.hdf5")
_PARAMS, _CONFIG, _LABELS = "params", "param_config", "labels"
_MOST_TENSORS, _MOST_FILES, _HELD = 4096, 100_000, 2
_BLOCK_BYTES = 32_000_000
_IMAGES = {"mnist": "mnist", "cifar10": "cifar10", "shapenet": "shapenet", "microimagenet": "micro_imagenet"}
# Of these many come first for training, and up to the second number for validation.
_CUTS = {
    "mnist": (55_000, 60_000),
    "cifar10": (45_000, 50_000),
    "micro_imagenet": (45_000, 50_000),
    "shapenet": (27_840, 31_320),
}
_OWN = {
    "label": "int64",
    "signal_index": "int64",
    "omega": "float64",
    "omega_hidden": "float64",
    "output_offset": "float64",
    "grid": "string",
    "nef": "string",
}


def is_arena(place: Place) -> bool:
    """Whether a place holds files of fit-a-nef: a folder, an archive, or one file."""
    if not isinstance(place, Path):
        return any(_FILE.fullmatch(name.rpartition("/")[2]) for name in place.entries)
    return next(_files(place), None) is not None


def _files(place: Path) -> Iterator[Path]:
    found = [place] if place.is_file() else place.rglob("*nefs_*.hdf5") if place.is_dir() else ()
    return (path for path in found if _FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink())


@dataclass(frozen=True, slots=True)
class _Nefs:
    """What a file says before its weights are read.

    Attributes:
        start: the number of its first signal.
        rows: how many networks it holds.
        order: int64 [P], where each number of a row lies in the file's vector.
        columns: of its networks, each an array of so many.
    """

    path: Path
    file: Hdf5File
    start: int
    rows: int
    record: NetworkRecord
    order: NDArray[np.int64]
    columns: Mapping[str, Sequence[Any]]


class ArenaSource(ListedSource):
    """The networks of some files of fit-a-nef on this machine."""

    kind = "Neural Field Arena"
    credit = ARENA

    def __init__(self, place: Path, reading: Reading) -> None:
        self._process = Isolated("hdf5")
        self._notes = Notes()
        left_out: list[LeftOut] = []
        paths = sorted(itertools.islice(_files(place), _MOST_FILES), key=_place_of)
        self._nefs: list[_Nefs] = []
        for path in paths:
            try:
                self._nefs.append(self._described(path))
            except (CheckpointError, DocumentError, LayoutError) as error:
                shown = "/".join(path.resolve().parts[-3:])
                left_out.append(LeftOut(model=shown, epochs=(0,), reason=str(error)))
        self._starts = np.cumsum([0, *(nefs.rows for nefs in self._nefs)])
        self._read = functools.lru_cache(_HELD)(self._block)
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        super().__init__(reading.name or self._name(), self._listed(left_out), reading, digest_of(stamps))

    @classmethod
    def open(cls, place: Place, reading: Reading) -> ArenaSource:
        """The networks in a folder, or in one file.

        Raises:
            SourceError: if they lie in an archive or elsewhere than on this machine; if h5py is not installed.
        """
        if not isinstance(place, Path):
            raise SourceError(
                f"{place.name} holds HDF5 files, which cannot be read in an archive or from afar; unpack or download "
                "it, and build from the folder"
            )
        check_installed("hdf5", next((path.name for path in _files(place)), place.name))
        return cls(place, reading)

    @property
    def zoo(self) -> Mapping[str, Any]:
        """Its signals, architecture and task, as far as they are one."""
        table = self._listing_table
        own = {
            name: table[name].unique().to_pylist() for name in ("images", "architecture") if name in table.column_names
        }
        one = {name: values[0] for name, values in own.items() if len(values) == 1 and values[0] is not None}
        return {"name": self.name, **one, "task": FIELD}

    def _described(self, path: Path) -> _Nefs:
        """What a file holds.

        Raises:
            CheckpointError, DocumentError, LayoutError: if that is not what such a file has.
        """
        file = Hdf5File(path, self._process)
        held = file.datasets.get(_PARAMS)
        if held is None or held.type not in ("f2", "f4") or len(held.shape) != 2:
            kind = "missing" if held is None else f"{held.type} {list(held.shape)}"
            raise CheckpointError(f"its dataset {_PARAMS} is {kind}, expected float32 [networks, weights]")
        rows, size = held.shape
        record, order = _as_torch(_config(file), size)
        name = _FILE.fullmatch(path.name)
        assert name is not None
        start, end = int(name["start"]), int(name["end"])
        if end - start != rows:
            text = f"{path.name} holds {counted(rows, 'network')}; they are numbered from {start:,} on"
            self._notes.add([Note("arena-count", text, whole=True)])
        columns = _columns(path.resolve(), record.layout, start, rows) | _attributes(file, rows)
        return _Nefs(path, file, start, rows, record, order, columns)

    def _listed(self, left_out: list[LeftOut]) -> Listing:
        names = dict.fromkeys(name for nefs in self._nefs for name in nefs.columns)
        values = {
            name: [value for nefs in self._nefs for value in nefs.columns.get(name, [None] * nefs.rows)]
            for name in names
        }
        own = [name for name in names if name not in _STANDARD]
        columns = further(**{name: _OWN.get(name) or _kind_of(values[name]) for name in own})
        table = table_of(values, columns) if values else _EMPTY
        self._listing_table = table
        return Listing(
            table=table,
            records={nefs.record.hash: nefs.record for nefs in self._nefs},
            further=columns,
            left_out=left_out,
            notes=self._notes,
            described={
                "files": len(self._nefs),
                "tensors": "as torch has them: kernels transposed to [out, in], weight before bias",
                "convention": f"ω₀ from {NEF}; sin(ω₀(Wx+b)), no output offset, and the grid by fit_a_nef/nef/siren.py "
                "and dataset/image_dataset/image_data.py of samuelepapa/fit-a-nef",
                "source_split": "by the number of the signal, as the authors cut them",
            },
        )

    def _name(self) -> str:
        """Of the config: the signals, and the kind of network where it is no SIREN."""
        names = []
        for column in ("images", "nef"):
            values = {value for nefs in self._nefs for value in nefs.columns[column]}
            one = values.pop() if len(values) == 1 else None
            names += [] if one in (None, "SIREN") else [re.sub(r"[^a-z0-9_]+", "", one.lower())]
        return "_".join(["arena", *names[:1], "inrs", *names[1:]])

    def read_rows(self, numbers: Sequence[int], record: NetworkRecord) -> tuple[NDArray[np.float32], dict[int, str]]:
        """See `ListedSource.read_rows`."""
        weights = np.empty((len(numbers), record.layout.size), np.float32)
        reasons: dict[int, str] = {}
        for position, number in enumerate(numbers):
            place = int(np.searchsorted(self._starts, number, side="right")) - 1
            nefs, row = self._nefs[place], number - int(self._starts[place])
            step = max(_BLOCK_BYTES // max(4 * record.layout.size, 1), 1)
            try:
                block = self._read(place, row // step * step, step)
                weights[position] = block[row % step][nefs.order]
            except CheckpointError as error:
                reasons[position] = str(error)
        good = [position for position in range(len(numbers)) if position not in reasons]
        return (weights if len(good) == len(numbers) else weights[good]), reasons

    def _block(self, place: int, start: int, count: int) -> NDArray[np.generic]:
        nefs = self._nefs[place]
        return nefs.file.rows(_PARAMS, start, min(start + count, nefs.rows))


_STANDARD = frozenset(
    {"model_id", "epoch", LAYOUT, "images", "architecture", "in_channels", "classes", "activation", "task", "group",
     "source_split"}
)  # fmt: skip
_EMPTY = pa.table({"model_id": pa.array([], pa.string()), "epoch": pa.array([], pa.int32()),
                   LAYOUT: pa.array([], pa.string())})  # fmt: skip


def _place_of(path: Path) -> tuple[str, int]:
    name = _FILE.fullmatch(path.name)
    return path.parent.as_posix(), int(name["start"]) if name else 0


def _config(file: Hdf5File) -> list[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the tensors in the order of the vector."""
    texts = file.texts(_CONFIG)
    value = parse_json(texts[0].encode()) if len(texts) == 1 else None
    entries = value if isinstance(value, list) and 0 < len(value) <= _MOST_TENSORS else [None]
    tensors = []
    for entry in entries:
        match entry:
            case [str() as name, list() as shape] if (
                0 < len(name) <= 200 and len(shape) <= 8 and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
            ):
                tensors.append((name, tuple(shape)))
            case _:
                raise CheckpointError(f"its {_CONFIG} holds {brief(entry)}, expected [name, shape] of each tensor")
    return tensors


def _as_torch(tensors: Sequence[tuple[str, tuple[int, ...]]], size: int) -> tuple[NetworkRecord, NDArray[np.int64]]:
    """The network of tensors as flax has them, and where each number of its flat vector lies in theirs."""
    total = sum(math.prod(shape) for _, shape in tensors)
    if total != size:
        raise CheckpointError(f"its tensors have {total:,} numbers, its vectors {size:,}")
    placed: dict[str, list[tuple[int, str, NDArray[np.int64]]]] = {}
    start = 0
    for name, shape in tensors:
        stem, _, last = name.rpartition(".")
        where = np.arange(start, start + math.prod(shape), dtype=np.int64).reshape(shape)
        start += where.size
        if last == "kernel" and len(shape) == 2:
            name, where = f"{stem}.weight" if stem else "weight", where.T
        placed.setdefault(stem, []).append((0 if name.endswith("weight") else 1, name, where))
    ordered = [entry for stem in placed.values() for entry in sorted(stem, key=lambda entry: entry[0])]
    layout = WeightLayout.of((name, where.shape, "parameter") for _, name, where in ordered)
    return NetworkRecord(layout), np.concatenate([where.ravel() for _, _, where in ordered])


def _columns(path: Path, layout: WeightLayout, start: int, rows: int) -> dict[str, Sequence[Any]]:
    """What the names of a file's folders, its number and `nef.json` tell of its networks."""
    *_, signals, kind = path.parts[:-1]
    images = next((_IMAGES[word] for word in re.split(r"[^a-z0-9]+", signals.lower()) if word in _IMAGES), None)
    nef = _nef(path.parent / NEF)
    name = nef.get("name") if isinstance(nef.get("name"), str) else None
    weights = [spec for spec in layout.tensors if spec.name.endswith(".weight") and len(spec.shape) == 2]
    inputs, outputs = (weights[0].shape[1], weights[-1].shape[0]) if weights else (None, None)
    siren = name == "SIREN"
    omega = _positive(nef.get("params", {}), "omega_0") if siren else None
    numbers = range(start, start + rows)
    facts = {
        "epoch": 0,
        LAYOUT: NetworkRecord(layout).hash,
        "images": images,
        "architecture": SIREN if siren else None,
        "in_channels": inputs,
        "classes": outputs,
        "activation": "sine" if siren else None,
        "task": FIELD,
        "omega": omega,
        "omega_hidden": omega,
        "output_offset": 0.0 if siren else None,
        "grid": "xy[-1,1]" if siren and inputs == 2 else None,
        "nef": name,
    }
    return {
        "model_id": [f"{signals}/{kind}/{number:06d}" for number in numbers],
        "signal_index": list(numbers),
        "source_split": [_split(images, number) for number in numbers],
        "group": [signal_group(images, None, number) for number in numbers],
        **{name: [value] * rows for name, value in facts.items()},
    }


def _split(images: str | None, number: int) -> str | None:
    if images not in _CUTS:
        return None
    train, val = _CUTS[images]
    return "train" if number < train else "val" if number < val else "test"


def _nef(path: Path) -> dict[str, Any]:
    """The kind of network and its settings; empty where nothing tells."""
    try:
        value = read_json(path) if path.is_file() and not path.is_symlink() else {}
    except (OSError, DocumentError):
        return {}
    value = value if isinstance(value, dict) else {}
    return value | {"params": value["params"] if isinstance(value.get("params"), dict) else {}}


def _positive(values: Mapping[str, Any], name: str) -> float | None:
    number = finite_number(values.get(name))
    return number if number is not None and number > 0 else None


def _attributes(file: Hdf5File, rows: int) -> dict[str, Sequence[Any]]:
    """What a file says of each signal besides: one number each."""
    columns: dict[str, Sequence[Any]] = {}
    for name, held in file.datasets.items():
        plain = "label" if name == _LABELS else column_name(name)
        if name in (_PARAMS, _CONFIG) or held.type in (None, "text") or held.shape != (rows,):
            continue
        if plain not in _STANDARD and plain not in (_OWN.keys() - {"label"}) and further_problem(plain) is None:
            columns[plain] = file.rows(name).tolist()
    return columns


def _kind_of(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return "bool" if kinds == {bool} else "int64" if kinds <= {int} else "float64"

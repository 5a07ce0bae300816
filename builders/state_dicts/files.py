"""The states in a container: single files, files of one sharded state, rows of arrays."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.state_dicts.kinds import MAX_STATE, FileKind
from zoo_datasets.builders.state_dicts.names import INDEX, is_state_file
from zoo_datasets.builders.state_dicts.numpy_file import array_in, rows_kind
from zoo_datasets.builders.state_dicts.reader import Part, StateFile, StateReader
from zoo_datasets.documents import MAX_JSON, parse_json, read_json
from zoo_datasets.errors import CheckpointError, DocumentError, LayoutError, SourceError
from zoo_datasets.networks.layout import WeightLayout

_ROWS = ".npy"
_MOST_SHARDS = 10_000


@dataclass(kw_only=True)
class StateFiles:
    """Files of a container by what they are to be read as.

    Attributes:
        shards: by the name of a sharded state, which is that of its index without its ending, its files.
        broken: by name why a state cannot be read.
    """

    single: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    shards: dict[str, tuple[str, ...]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Of all states, those of arrays once, in order."""
        return sorted({*self.single, *self.rows, *self.shards, *self.broken})

    def needed(self, names: Sequence[str]) -> list[str]:
        """The files of some states."""
        return [path for name in names for path in self.shards.get(name, (name,)) if name not in self.broken]


def find_files(container: Container) -> StateFiles:
    """The files of tensors in a container; indices of sharded ones are read, nothing else."""
    paths = [path for path in container.entries if path[-1] != "/" and is_state_file(path)]
    files = StateFiles(broken={path: reason for path in paths if (reason := container.refused.get(path)) is not None})
    indices = [path for path in paths if path.endswith(INDEX) and path not in files.broken]
    container.prepare(indices, MAX_JSON)
    taken: set[str] = set()
    existing = set(container.entries)
    for path in indices:
        name = path.removesuffix(INDEX)
        try:
            shards = _shards(container.read(path, MAX_JSON), posixpath.dirname(path))
            taken.update(shards)
            if missing := [shard for shard in shards if shard not in existing]:
                raise CheckpointError(
                    f"{len(missing):,} of its {len(shards):,} files are missing, as {missing[0][:200]!r}"
                )
            files.shards[name] = shards
        except (CheckpointError, DocumentError) as error:
            files.broken[name] = str(error)
    for path in paths:
        if path not in taken and path not in files.broken and not path.endswith(INDEX):
            (files.rows if path.lower().endswith(_ROWS) else files.single).append(path)
    return files


def _shards(index: bytes, folder: str) -> tuple[str, ...]:
    """The files that an index names, all of which lie beside it."""
    value = parse_json(index)
    places = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError("its index has no weight_map, which says in which file each tensor lies")
    names = sorted(set(places.values()))
    if len(names) > _MOST_SHARDS or any("/" in name or "\\" in name or name in ("", ".", "..") for name in names):
        raise CheckpointError("its index names files that do not lie beside it")
    return tuple(posixpath.join(folder, name) for name in names)


def described(
    reader: StateReader, container: Container, files: StateFiles, names: Sequence[str], layout: WeightLayout | None
) -> tuple[list[StateFile], dict[str, str]]:
    """The states of these names in order, each row of an array as one; and by name why others cannot be read."""
    rows = set(files.rows)
    kinds = reader.describe([path for path in files.needed(names) if path not in rows])
    states: list[StateFile] = []
    reasons: dict[str, str] = {}
    alone = {kind: (kind,) for kind in set(kinds.values()) if isinstance(kind, FileKind)}
    for name in names:
        if isinstance(kind := kinds.get(name), FileKind):
            states.append(StateFile(name, (Part(name, kind),), alone[kind]))
            continue
        try:
            if name in files.broken:
                raise CheckpointError(files.broken[name])
            if name in rows:
                states += _rows_of(container, name, layout)
            else:
                parts = _parts(files.shards.get(name, (name,)), kinds)
                states.append(StateFile(name, parts, tuple(part.kind for part in parts)))
        except CheckpointError as error:
            reasons[name] = str(error)
    return states, reasons


def _parts(paths: Sequence[str], kinds: Mapping[str, FileKind | str]) -> tuple[Part, ...]:
    parts = []
    for path in paths:
        kind = kinds[path]
        if isinstance(kind, str):
            raise CheckpointError(kind if len(paths) == 1 else f"{posixpath.basename(path)}: {kind}")
        parts.append(Part(path, kind))
    return tuple(parts)


def _rows_of(container: Container, path: str, layout: WeightLayout | None) -> list[StateFile]:
    if layout is None:
        raise CheckpointError("nothing tells which tensors its rows are made of; give --layout FILE")
    with container.opened(path, MAX_STATE) as data:
        array = array_in(data, path)
        kind = rows_kind(array, layout)
        width = kind.structure.length
        count = array.size // layout.size
        if array.start + count * width != len(data):
            raise CheckpointError(f"its {len(data):,} bytes are not those of an array {list(array.shape)}")
    if len(array.shape) == 1:
        return [StateFile(path, (Part(path, kind, array.start),), (kind,))]
    return [StateFile(path, (Part(path, kind, array.start + row * width),), (kind,), row) for row in range(count)]


def read_layout_file(path: Path) -> WeightLayout:
    """A layout of a JSON file: the list that `WeightLayout.to_list` gives, or an object of names and shapes.

    Raises:
        SourceError: if it is neither.
    """
    try:
        value = read_json(path)
    except OSError as error:
        raise SourceError(f"--layout {path} could not be read: {error.strerror or error}") from error
    except DocumentError as error:
        raise SourceError(f"--layout {path}: {error}") from error
    if isinstance(value, dict) and "tensors" in value:
        value = value["tensors"]
    if isinstance(value, dict):
        value = [[name, shape, "float32", "parameter", 0] for name, shape in value.items()]
    try:
        return _layout_of(value)
    except LayoutError as error:
        raise SourceError(
            f"--layout {path}: {error}; a list of [name, shape, dtype, kind, offset], or an object of names and "
            "shapes, is expected"
        ) from error


def _layout_of(value: object) -> WeightLayout:
    """A layout whose offsets follow from the shapes."""
    if not isinstance(value, list):
        raise LayoutError(f"it holds a {type(value).__name__}")
    offset = 0
    entries = []
    for entry in value:
        match entry:
            case [str() as name, list() as shape, *_] if all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
                entries.append([name, shape, "float32", "parameter", offset])
                size = 1
                for length in shape:
                    size *= length
                offset += size
            case _:
                raise LayoutError(f"its entry {str(entry)[:80]!a} is no name with a shape")
    return WeightLayout.from_list(entries)

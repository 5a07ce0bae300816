"""Several containers that hold parts of one zoo, as one: archives that were downloaded in parts, folders of halves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import MAX_CHECKPOINT
from zoo_datasets.builders.containers.folder import Container, OneByOne
from zoo_datasets.builders.containers.native_files import Template
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.sources.raw.trials import find_zoo
from zoo_datasets.errors import CheckpointError, SourceError
from zoo_datasets.specs.spec import digest_of

# What downloads put behind the name of a part: `-20240731T120000Z-001`, `.part2`, ` (1)`.
_PART = re.compile(r"(-\d{8}T\d{6}Z)?(-\d+)*-\d{3}|[._ -]part[._ -]?\d+|\s?\(\d+\)", re.IGNORECASE)


class Joined(OneByOne):
    """The parts of one zoo. A file that several of them hold must be the same in all.

    Raises:
        SourceError: if they belong to different zoos, or hold different content under one name.
    """

    def __init__(self, parts: Sequence[Container]) -> None:
        self._parts = parts
        zoos = [find_zoo(part) for part in parts]
        names = [zoo.name if zoo.path else _without_part(zoo.name) for zoo in zoos]
        if len(set(names)) > 1:
            raise SourceError(
                f"these are parts of different zoos ({', '.join(dict.fromkeys(names))}); "
                "build each into a config of its own"
            )
        self.name = names[0]
        self._where: dict[str, tuple[Container, str]] = {}
        refused: dict[str, str] = {}
        repeated = 0
        for part, zoo in zip(parts, zoos, strict=True):
            for entry in part.entries:
                path = self._path(part, zoo.path, entry)
                if path in self._where and entry[-1] != "/" and path not in refused and entry not in part.refused:
                    self._compare(path, part, entry)
                    repeated += 1
                elif path not in self._where or path in refused:
                    self._where[path] = (part, entry)
                    refused.pop(path, None)
                    if entry in part.refused:
                        refused[path] = part.refused[entry]
            for entry, reason in part.refused.items():
                path = self._path(part, zoo.path, entry)
                if path not in self._where:
                    refused[path] = reason
        self.refused: Mapping[str, str] = refused
        self.entries: Sequence[str] = sorted(self._where)
        text = f"{repeated:,} files stand in several of the {len(parts)} parts, the same in each"
        repeated_notes = [Note("import-repeated-file", text, whole=True)] if repeated else []
        self.notes: Sequence[Note] = [*repeated_notes, *(note for part in parts for note in part.notes)]

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file; errors as in `Container.read`."""
        if path not in self._where:
            raise CheckpointError(self.refused.get(path, "there is no such file"))
        part, entry = self._where[path]
        return part.read(entry, limit)

    def prepare(self, paths: Iterable[str], limit: int) -> None:
        """Fetch remote files, each from the part that holds it."""
        wanted: dict[int, list[str]] = {}
        for path in paths:
            if path in self._where:
                part, entry = self._where[path]
                wanted.setdefault(id(part), []).append(entry)
        for part in self._parts:
            part.prepare(wanted.get(id(part), []), limit)

    def read_alike(
        self, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
    ) -> NDArray[np.bool_] | None:
        """Read many files, by their part's own fast path if all lie in one part."""
        places = [self._where[path] for path in paths if path in self._where]
        if len(places) == len(paths) and len({id(part) for part, _ in places}) == 1:
            return places[0][0].read_alike([entry for _, entry in places], template, memory)
        return super().read_alike(paths, template, memory)

    def fingerprint(self) -> str:
        """Changes when any part does."""
        return digest_of(["joined", *(part.fingerprint() for part in self._parts)])

    def _path(self, part: Container, root: str, entry: str) -> str:
        """The joined path of a part's entry: below the zoo's name, or below the part's if outside the zoo's folder."""
        if entry.startswith(root):
            return f"{self.name}/{entry[len(root) :]}"
        return f"{part.name}: {entry}"

    def _compare(self, path: str, part: Container, entry: str) -> None:
        other, earlier = self._where[path]
        try:
            same = part.read(entry, MAX_CHECKPOINT) == other.read(earlier, MAX_CHECKPOINT)
        except CheckpointError as error:
            raise SourceError(f"{path[:200]!r} stands in two parts and cannot be compared: {error}") from error
        if not same:
            raise SourceError(
                f"{path[:200]!r} stands in two parts with different content: they are not parts of one zoo; "
                "build each into a config of its own with --name"
            )


def _without_part(name: str) -> str:
    while match := re.search(rf"(?:{_PART.pattern})$", name, re.IGNORECASE):
        name = name[: match.start()]
    return name

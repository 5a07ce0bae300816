"""What is known of a published population of state dicts besides its tensors: what its names mean, and facts of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from zoo_datasets.builders.containers.folder import Container
from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.state_dicts.names import Names

# The numbers of the states that are wanted, of columns with their ids.
Choose = Callable[[Mapping[str, pa.Array]], Sequence[int]]


class Told(Protocol):
    """A population as the finder of states sees it."""

    @property
    def names(self) -> Names:
        """What reads the names of its files."""

    @property
    def docs(self) -> Mapping[str, str]:
        """By column, where its values come from."""

    def beside(self, container: Container) -> Sequence[str]:
        """Small files of the container that its columns are read from."""

    def columns(self, container: Container, names: Sequence[str]) -> Mapping[str, pa.Array]:
        """What is known of the states of these names before a file of tensors is read, in their order."""

    def notes(self) -> Sequence[Note]:
        """What was strange about it."""

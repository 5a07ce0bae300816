"""What is known of a network of any shape: the layout of its weights, and its list of layers where there is one.

A row names its record by a hash, and the records of a zoo are read with it: from then on this process knows them, so
that a row alone is enough to restore a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoo_datasets.documents import brief, parse_json
from zoo_datasets.errors import LayoutError, SpecError
from zoo_datasets.networks.layout import WeightLayout

_HASH_DIGITS = 16


@dataclass(frozen=True)
class NetworkRecord:
    """A layout, and as JSON text the list of layers that computes with it; None where that is not known."""

    layout: WeightLayout
    layers: str | None = None

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits, equal for equal records alone."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: `tensors`, as `WeightLayout.to_list` gives them, and `layers`."""
        return {"tensors": self.layout.to_list(), "layers": None if self.layers is None else parse_json(self.layers)}

    @classmethod
    def from_dict(cls, value: Any) -> NetworkRecord:
        """The inverse of `to_dict`.

        Raises:
            LayoutError: if the value is no such record.
        """
        if not isinstance(value, dict) or not {"tensors", "layers"} <= value.keys():
            raise LayoutError(f"this is no record of a network: expected tensors and layers, found {brief(value)}")
        layers = value["layers"]
        if layers is not None and not isinstance(layers, list):
            raise LayoutError(f"layers: expected a list or null, found {brief(layers)}")
        return cls(WeightLayout.from_list(value["tensors"]), None if layers is None else json.dumps(layers))


_known: dict[str, NetworkRecord] = {}


def remember(records: Iterable[NetworkRecord]) -> dict[str, NetworkRecord]:
    """Make records known to this process; returns them by hash."""
    by_hash = {record.hash: record for record in records}
    _known.update(by_hash)
    return by_hash


def record_named(name: object) -> NetworkRecord:
    """The record of a hash, as a row has it in its column `layout`.

    Raises:
        SpecError: if this process does not know it.
    """
    record = _known.get(name) if isinstance(name, str) else None
    if record is None:
        raise SpecError(
            f"the row's layout {brief(name)} is not known in this process: load the zoo by load_zoo, or read its "
            "layouts by zoo_datasets.read_layouts(repo, name), or give layout="
        )
    return record


def records_of(value: Any, origin: str) -> dict[str, NetworkRecord]:
    """Records by hash, of a mapping of hashes to JSON values.

    Raises:
        LayoutError: naming `origin`, if one is broken or is not what its hash says.
    """
    if not isinstance(value, Mapping):
        raise LayoutError(f"{origin}: expected layouts by hash, found {brief(value)}")
    records = {}
    for name, entry in value.items():
        record = NetworkRecord.from_dict(entry)
        if record.hash != name:
            raise LayoutError(f"{origin}: the layout named {brief(name)} has the hash {record.hash}")
        records[record.hash] = record
    return records

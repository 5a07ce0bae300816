"""Rows out of what an iterator gives: state dicts, modules or flat weights, with their columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from zoo_datasets.documents import brief
from zoo_datasets.errors import LayoutError, SourceError
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.repository.row import LAYOUT, RAW, STANDARD, WEIGHTS, further_problem, id_problem
from zoo_datasets.specs.bounds import MAX_EPOCH

Weights: TypeAlias = "Mapping[str, Tensor] | nn.Module | Tensor"
Item: TypeAlias = "tuple[Weights, Mapping[str, Any]] | Weights"
Key: TypeAlias = tuple[str, int, int | None]  # model_id, epoch, step

# Of the tensors of a row that float32 cannot hold.
RAW_BYTES = 1_000_000
_GIVEN = frozenset({WEIGHTS, RAW, LAYOUT, "zoo", "ggap"})  # columns that nobody gives


class Row:
    """One row: its record, weights [D] float32, raw bytes and columns."""

    __slots__ = ("columns", "raw", "record", "weights")

    def __init__(self, record: NetworkRecord, weights: Tensor, raw: bytes, columns: dict[str, Any]) -> None:
        self.record = record
        self.weights = weights
        self.raw = raw
        self.columns = columns

    @property
    def key(self) -> Key:
        return self.columns["model_id"], self.columns["epoch"], self.columns["step"]


def rows_of(item: Item, given: NetworkRecord | None) -> Iterable[Row]:
    """The rows of an item.

    Raises:
        SourceError, LayoutError: naming what is wrong.
    """
    weights, columns = item if isinstance(item, tuple) and len(item) == 2 else (item, {})
    if not isinstance(columns, Mapping) or not all(isinstance(key, str) for key in columns):
        raise SourceError(f"found {brief(columns)} beside weights, expected a dictionary of columns")
    if isinstance(weights, np.ndarray):
        weights = torch.from_numpy(weights)
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if isinstance(weights, Mapping):
        yield _row_of_state(weights, columns, given)
        return
    if not isinstance(weights, Tensor):
        raise SourceError(f"found {brief(weights)}, expected a state dict, a module, or a tensor [D] or [n, D]")
    if given is None:
        raise SourceError("flat weights need their layout: pass layout= or layers=")
    if given.layout.raw_bytes:
        raise SourceError("this layout has tensors that flat weights cannot hold; give state dicts")
    matrix = weights.detach().cpu()
    if matrix.ndim == 1:
        matrix = matrix[None]
    elif matrix.ndim == 2:
        columns = None if columns is None else dict(columns)
    if matrix.ndim != 2 or matrix.shape[1] != given.layout.size or not matrix.dtype.is_floating_point:
        raise LayoutError(
            f"weights are {matrix.dtype} of shape {list(weights.shape)}, expected floating-point numbers of shape "
            f"[{given.layout.size}] or [n, {given.layout.size}]"
        )
    exact = matrix.to(torch.float32)
    if matrix.dtype == torch.float64 and not torch.equal(exact.double().nan_to_num(), matrix.nan_to_num()):
        raise LayoutError("weights are float64 that float32 cannot hold exactly; round them first: weights.float()")
    batched = weights.ndim == 2
    for index in range(len(exact)):
        own = {name: _at(name, value, index, len(exact)) if batched else value for name, value in columns.items()}
        yield _finished(given, exact[index], b"", own)


def _at(name: str, value: Any, index: int, count: int) -> Any:
    """The value of one row in a column of n."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        return value
    if getattr(value, "ndim", 1) == 0:
        return value
    if len(value) != count:
        raise SourceError(f"column {name!r} has {len(value):,} values for {count:,} rows of weights")
    return value[index]


def _row_of_state(state: Mapping[str, Tensor], columns: Mapping[str, Any], given: NetworkRecord | None) -> Row:
    record = NetworkRecord(WeightLayout.of_state(state)) if given is None else given
    layout = record.layout
    if layout.raw_bytes > RAW_BYTES:
        raise LayoutError(
            f"{layout.raw_bytes:,} bytes of tensors that float32 cannot hold, at most {RAW_BYTES:,} a row expected; "
            "convert them to float32 first"
        )
    weights = layout.flatten({name: tensor.detach().cpu() for name, tensor in state.items()})
    return _finished(record, weights, layout.pack_raw(state), dict(columns))


def _finished(record: NetworkRecord, weights: Tensor, raw: bytes, columns: Mapping[str, Any]) -> Row:
    """A row with its key, its values checked and plain."""
    plain = {name: plain_value(name, value) for name, value in columns.items()}
    if plain.get("model_id") is None:
        digest = hashlib.sha256(f"{record.hash} {weights.shape}".encode())
        digest.update(weights.contiguous().numpy().tobytes())
        digest.update(raw)
        plain["model_id"] = digest.hexdigest()[:32]
    plain = {"epoch": 0, "step": None} | plain
    check_columns(plain)
    return Row(record, weights, raw, plain)


def check_columns(columns: Mapping[str, Any]) -> None:
    """See that a row's columns may be given with rows, and that its key and ids are ones.

    Raises:
        SourceError: naming the first that is not.
    """
    for name in columns:
        if name in _GIVEN:
            raise SourceError(f"column {name!r} is not given with rows: it follows from them")
        if name not in STANDARD and (problem := further_problem(name)):
            raise SourceError(problem)
    problem = id_problem(columns["model_id"]) or id_problem(columns.get("parent_id"))
    if problem is not None:
        raise SourceError(problem)
    epoch, step = columns["epoch"], columns["step"]
    if type(epoch) is not int or not 0 <= epoch <= MAX_EPOCH:
        raise SourceError(f"epoch {brief(epoch)}: expected a whole number from 0 to {MAX_EPOCH:,}")
    if step is not None and (type(step) is not int or not 0 <= step < 1 << 63):
        raise SourceError(f"step {brief(step)}: expected a whole number from 0 on, or None")


def plain_value(name: str, value: Any) -> Any:
    """A value as a bool, int, float, text or None.

    Raises:
        SourceError: if it is nothing of these.
    """
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and getattr(value, "size", None) is not None:
        count = value.numel() if isinstance(value, Tensor) else value.size
        if count == 1:
            value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise SourceError(f"column {name!r} holds {brief(value)}; expected a number, a truth value, a text or None")

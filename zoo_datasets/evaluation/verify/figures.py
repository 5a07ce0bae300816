"""Accuracy and loss of rows from their weights alone, beside what the rows record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.loading.modules import layers_of_row
from zoo_datasets.networks.kind import KIND_COLUMNS, NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS, Layer
from zoo_datasets.networks.variational import LOG_SIGMA2, total_kl
from zoo_datasets.repository.row import KL_WEIGHT, LAYOUT, MEANS, RECORDED
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.stacked import evaluate_stack
from zoo_datasets.stacked.evaluate import same_loss

STACK_BYTES = 200_000_000
_SHARED = (*KIND_COLUMNS, "activation", "train_fraction", LAYOUT)


class State(Protocol):
    """A model at an epoch."""

    @property
    def model_id(self) -> str: ...

    @property
    def epoch(self) -> int: ...


_S = TypeVar("_S", bound=State)


def spread(states: Sequence[_S], count: int) -> list[_S]:
    """So many states, about equally many of each epoch, the models of an epoch in hashed order."""
    by_epoch: dict[int, list[_S]] = {}
    for state in states:
        by_epoch.setdefault(state.epoch, []).append(state)
    for epoch, group in by_epoch.items():
        group.sort(key=lambda state: digest_of(["sample", state.model_id, epoch]))
    # Epochs, too, in hashed order: with fewer rows than epochs they should not all be early ones.
    epochs = sorted(by_epoch, key=lambda epoch: digest_of(["sample", epoch]))
    ranks = max(map(len, by_epoch.values()), default=0)
    return [by_epoch[epoch][rank] for rank in range(ranks) for epoch in epochs if rank < len(by_epoch[epoch])][:count]


def wrong_figures(
    rows: Sequence[Mapping[str, Any]], images: ImageData, *, start: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """For each row, by its position: where its recorded validation and test figures differ from recomputed ones.

    Accuracies may differ by one image, losses by 1e-4 · max(1, |loss|); NaN equals NaN. A figure that the row
    does not record is not compared. Losses that a row keeps as recorded, with β·KL in them, are compared where the row
    has log σ² and the weights before pruning. The rows come stack by stack, not in their order.

    Args:
        rows: with the columns of `schema`; `weights` and others as wide are float32 arrays [D].
        images: as they were in training, limits included.
        start: whether training figures of epoch 0 are those of its weights, too, as in zoos trained by this package;
            of later epochs they are averages over the training itself. They are those of the row's `train_fraction`.
    """
    for positions in _stacks(rows):
        first = rows[positions[0]]
        layers = _layers_of(first)
        weights = torch.from_numpy(np.stack([rows[position]["weights"] for position in positions]))
        problems: list[list[str]] = [[] for _ in positions]
        costs = _kl_terms([rows[position] for position in positions])
        everywhere = list(range(len(positions)))
        at_start = [place for place in everywhere if start and rows[positions[place]]["epoch"] == 0]
        for name, split, places in (
            ("train", images.train.share(first.get("train_fraction") if start else None), at_start),
            ("val", images.val, everywhere),
            ("test", images.test, everywhere),
        ):
            recorded = [f"{name}_loss", f"{name}_acc", RECORDED[f"{name}_loss"]]
            if split is None or all(rows[positions[p]].get(column) is None for p in places for column in recorded):
                continue
            # In plain PyTorch whatever trained them: the kernels do not vouch for themselves.
            # Null where each layer names its own.
            activation = first["activation"] or next(iter(ACTIVATIONS))
            loss, correct = evaluate_stack(layers, activation, weights[places], images, split, kernels=False)
            for number, place in enumerate(places):
                position = positions[place]
                problems[place] += _compare(rows[position], name, split, float(loss[number]), int(correct[number]))
                problems[place] += _compare_recorded(rows[position], name, float(loss[number]), costs[place])
        yield from zip(positions, problems, strict=True)


def _layers_of(row: Mapping[str, Any]) -> tuple[Layer, ...]:
    return NetworkKind.of_row(row).layers if row.get(LAYOUT) is None else layers_of_row(row)


def _compare(row: Mapping[str, Any], name: str, split: Split, loss: float, correct: int) -> Iterator[str]:
    count = len(split.labels)
    accuracy = row[f"{name}_acc"]
    # float32 rounds the share; a thousandth of an image absorbs that.
    if accuracy is not None and not abs(accuracy * count - correct) <= 1.001:
        yield f"{name}_acc is {accuracy:.6f}, recomputed {correct / count:.6f} ({correct:,} of {count:,} images)"
    recorded = row[f"{name}_loss"]
    if recorded is not None and not same_loss(recorded, loss):
        yield f"{name}_loss is {recorded:.6f}, recomputed {loss:.6f}"


def _kl_terms(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """β·KL of each row; None where it lacks β, log σ² or the weights before pruning."""
    costs: list[float | None] = []
    for row in rows:
        if row.get(KL_WEIGHT) is None or not {LOG_SIGMA2, MEANS} <= row.keys():
            costs.append(None)
            continue
        layers = NetworkKind.of_row(row).layers
        means, noise = (torch.from_numpy(np.array(row[name])[None]) for name in (MEANS, LOG_SIGMA2))
        costs.append(row[KL_WEIGHT] * float(total_kl(layers, means, noise)))
    return costs


def _compare_recorded(row: Mapping[str, Any], name: str, loss: float, cost: float | None) -> Iterator[str]:
    """The loss that a twin's authors recorded is cross-entropy + β·KL."""
    recorded = row.get(RECORDED[f"{name}_loss"])
    if recorded is not None and cost is not None and not same_loss(recorded, loss + cost):
        sum_of = f"{loss + cost:.6f} = {loss:.6f} + {cost:.6f} of β·KL"
        yield f"{RECORDED[f'{name}_loss']} is {recorded:.6f}, recomputed {sum_of}"


def _stacks(rows: Sequence[Mapping[str, Any]]) -> Iterable[list[int]]:
    """Positions of rows that can be evaluated together, in pieces that fit in memory."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(tuple(row.get(column) for column in _SHARED), []).append(position)
    for positions in groups.values():
        size = max(STACK_BYTES // rows[positions[0]]["weights"].nbytes, 1)
        yield from (positions[start : start + size] for start in range(0, len(positions), size))

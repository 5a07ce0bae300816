"""The split of the Small CNN Zoo that papers since NFN report on: lists of row numbers, and the rule of NFN's code."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.documents import MAX_DIGITS, read_text
from zoo_datasets.errors import DocumentError, SourceError

_LARGEST = 1 << 28
TRAIN, VALIDATION, TEST = "train", "val", "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSplits:
    """The split of each row, None where it has none; what a manifest records, and what is to be noted."""

    splits: Sequence[str | None]
    described: dict[str, Any]
    notes: Sequence[Note]


def plain_numbers(path: Path) -> list[int] | None:
    """The numbers of a file with one a line; None if it is another file.

    Raises:
        SourceError: if it cannot be read.
    """
    if path.suffix.lower() not in (".csv", ".txt"):
        return None
    try:
        lines = read_text(path, _LARGEST).split()
    except OSError as error:
        raise SourceError(f"--splits {path} could not be read: {error.strerror or error}") from error
    except DocumentError as error:
        raise SourceError(f"--splits {path}: {error}") from error
    digits = all(line.isascii() and line.isdigit() and len(line) <= MAX_DIGITS for line in lines)
    return list(map(int, lines)) if lines and digits else None


def published_splits(
    path: Path, numbers: Sequence[int], epochs: NDArray[Any], models: Sequence[str | None]
) -> PublishedSplits:
    """The split that NFN's code makes of its files, and all that follow it.

    The numbers are a permutation of the rows; of these the ones at the last epoch count. The second half of them is the
    test set; the first half is shuffled by `random.Random(0)`, 80 % of it is for training, the rest for validation. All
    states of a model are where its last one is.

    Args:
        numbers: of the file, whose first line may be the header 0 that NFN's code takes for a row of its own; it is
            left out here, as a row cannot lie in two splits.
        epochs: of all rows.
        models: ids of all rows.

    Raises:
        SourceError: if the numbers are no permutation of the rows.
    """
    rows = len(models)
    doubled = len(numbers) == rows + 1 and numbers[0] == 0
    order = np.array(numbers[1:] if doubled else numbers, np.int64)
    if len(order) != rows or not np.array_equal(np.sort(order), np.arange(rows)):
        raise SourceError(
            f"--splits {path}: its {len(numbers):,} numbers are no permutation of the {rows:,} rows here (with or "
            "without a first line 0); is it the file of another zoo?"
        )
    steps = np.array([-1 if epoch is None or epoch != epoch else epoch for epoch in epochs.tolist()], np.int64)
    last = int(steps.max(initial=0))
    final = order[steps[order] == last].tolist()
    half = len(final) // 2
    learnt = list(range(half))
    random.Random(0).shuffle(learnt)  # noqa: S311 - the published order
    cut = int(0.8 * half)
    parts = {TRAIN: learnt[:cut], VALIDATION: learnt[cut:], TEST: range(half, len(final))}
    split_of = {models[final[place]]: split for split, places in parts.items() for place in places}
    splits = [None if model is None else split_of.get(model) for model in models]
    notes = []
    if doubled and rows and steps[0] == last:
        text = f"row 0 is of epoch {last} and stands twice in {path.name}; NFN's code counts it twice, here it is once"
        notes.append(Note("splits-doubled-row", text, whole=True))
    described = {
        "file": path.name,
        "rule": f"NFN's: rows at epoch {last} in the file's order; second half test, first half shuffled, 80 % train",
        "entries": len(numbers),
        "models": dict(sorted(Counter(split_of.values()).items())),
    }
    return PublishedSplits(splits=splits, described=described, notes=notes)

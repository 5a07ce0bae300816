"""Which report belongs to which checkpoint of a trial, and which epoch that is.

The authors' tools and Ray 1 number a checkpoint's folder by the iteration. Ray 2 counts checkpoints from 0 and
iterations from 1, and may write a checkpoint every few iterations; its reports name it (`checkpoint_dir_name`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from zoo_datasets.builders.shards.notes import Note
from zoo_datasets.builders.sources.raw.figures import Figures
from zoo_datasets.builders.sources.raw.results import Results
from zoo_datasets.specs.bounds import MAX_EPOCH

UNMATCHED = Note(
    "import-unmatched-report",
    "nothing tells which checkpoint a report of result.json belongs to (no checkpoint_dir_name, and the numbers of the "
    "folders may not be the iterations): figures are null, and epochs are the numbers of the checkpoint folders",
)
_SHIFTED = Note(
    "import-shifted-report",
    "checkpoint folders are not numbered by iteration: each report belongs to the checkpoint that it names, and epochs "
    "are the iterations",
)
_MISSING = Note("import-missing-report", "result.json does not report every epoch of which there is a checkpoint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """The states that a trial has or should have.

    Attributes:
        numbers: by epoch, the number of the checkpoint's folder.
        figures: by epoch, what was reported of that checkpoint.
        lost: numbers of checkpoints that cannot be a row, with the reason.
    """

    numbers: Mapping[int, int]
    figures: Mapping[int, Figures]
    lost: Mapping[int, str]
    notes: tuple[Note, ...] = ()


def numbers_are_iterations(trials: Iterable[tuple[Collection[int], Results]]) -> bool:
    """Whether checkpoint folders are numbered by iteration where no report names one, judged by all trials of a zoo.

    A counter that starts at 0 never reaches the last iteration, which is at least 1; Ray reports no iteration 0.

    Args:
        trials: the numbers of the checkpoint folders, and the reports.
    """
    verdicts = [_is_by_iteration(numbers, results) for numbers, results in trials if numbers and results.epochs]
    return verdicts.count(True) > verdicts.count(False)


def _is_by_iteration(numbers: Collection[int], results: Results) -> bool | None:
    """The same of one trial; None if undecided."""
    if results.named:
        return all(number == epoch for number, (epoch, _) in results.named.items())
    if 0 in results.epochs:
        return True
    last, reported = max(numbers), max(results.epochs)
    if last == reported:
        return None if results.broken else True  # a report may have been lost
    return False if last < reported and min(numbers) == 0 else None


def match(numbers: Collection[int], results: Results, by_iteration: bool, anywhere: Collection[int]) -> Matching:
    """The epochs and figures of a trial's checkpoints.

    Args:
        numbers: of its checkpoint folders.
        by_iteration: what `numbers_are_iterations` says of its zoo.
        anywhere: numbers of which any trial has a checkpoint: others that are reported were never kept.
    """
    if results.named:
        return _match_named(numbers, results, anywhere)
    if not by_iteration:
        return Matching(numbers={n: n for n in sorted(numbers)}, figures={}, lost={}, notes=(UNMATCHED,))
    expected = sorted({*numbers, *(epoch for epoch in results.epochs if epoch in anywhere)})
    missing = any(number not in results.epochs for number in numbers)
    return Matching(
        numbers={n: n for n in expected}, figures=results.epochs, lost={}, notes=(_MISSING,) if missing else ()
    )


def _match_named(numbers: Collection[int], results: Results, anywhere: Collection[int]) -> Matching:
    epochs = {number: epoch for number, (epoch, _) in results.named.items() if number in numbers or number in anywhere}
    unnamed = sorted(set(numbers).difference(epochs))
    lost: dict[int, str] = {}
    line = _line(results.named)
    for number in unnamed:
        if line is None or not 0 <= (epoch := line[0] * number + line[1]) <= MAX_EPOCH:
            lost[number] = f"no report names checkpoint_{number:06d}, so that nothing tells its epoch"
        else:
            epochs[number] = epoch
    of_epoch: dict[int, int] = {}
    for number in sorted(epochs):
        earlier = of_epoch.get(epochs[number])
        # One that is there goes before one that is not, then the later one: a resumed trial trained the epoch again.
        if earlier is not None and earlier in numbers:
            keep, drop = (number, earlier) if number in numbers and number in results.named else (earlier, number)
            of_epoch[epochs[number]] = keep
            if drop in numbers:
                lost[drop] = f"checkpoint_{drop:06d} is of epoch {epochs[number]}, and so is checkpoint_{keep:06d}"
        else:
            of_epoch[epochs[number]] = number
    notes = [_MISSING] if unnamed else []
    notes += [_SHIFTED] if any(number != epoch for number, epoch in epochs.items()) else []
    figures = {e: results.named[number][1] for e, number in of_epoch.items() if number in results.named}
    return Matching(numbers=dict(sorted(of_epoch.items())), figures=figures, lost=lost, notes=tuple(notes))


def _line(named: Mapping[int, tuple[int, Figures]]) -> tuple[int, int] | None:
    """Step and start where epoch = step · number + start for all named checkpoints; None if there is no such line."""
    points = sorted((number, epoch) for number, (epoch, _) in named.items())
    if len(points) == 1:
        (number, epoch) = points[0]
        return (1, 0) if number == epoch else None
    (first, start), (second, after) = points[:2]
    step, rest = divmod(after - start, second - first)
    origin = start - step * first
    if rest or step < 1 or any(epoch != step * number + origin for number, epoch in points):
        return None
    return step, origin

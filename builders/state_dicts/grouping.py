"""Which states are of one layout: what the tensors of their files become, and which layouts the rows may have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from zoo_datasets.builders.shards.notes import Note, Notes
from zoo_datasets.builders.state_dicts.layouts import Filling, Kinds, filling_of, signature_of
from zoo_datasets.builders.state_dicts.options import StateDictOptions
from zoo_datasets.builders.state_dicts.reader import StateFile
from zoo_datasets.errors import CheckpointError, SourceError

_SHOWN = 3


def fillings_of(
    files: Sequence[StateFile], options: StateDictOptions, source: str, notes: Notes
) -> tuple[list[Filling | None], dict[int, str]]:
    """The layout of each state, None of those that are left out; and by place why these are.

    Args:
        source: its name, for messages.
        notes: takes what the files of a layout are noted for.

    Raises:
        SourceError: if there are several layouts, and that is to be an error.
    """
    places_of: defaultdict[Kinds, list[int]] = defaultdict(list)
    for place, file in enumerate(files):
        places_of[file.kinds].append(place)
    alike: dict[object, dict[Kinds, list[int]]] = {}
    reasons: dict[int, str] = {}
    for kinds, places in places_of.items():
        try:
            alike.setdefault(signature_of(kinds), {})[kinds] = places
        except CheckpointError as error:
            reasons |= dict.fromkeys(places, str(error))
    result: list[Filling | None] = [None] * len(files)
    groups: list[tuple[Filling, list[int]]] = []
    for by_kinds in alike.values():
        places = sorted(place for here in by_kinds.values() for place in here)
        try:
            filling = filling_of(list(by_kinds), files[places[0]].shown, options.cast)
            groups.append((filling, places))
        except CheckpointError as error:
            reasons |= dict.fromkeys(places, str(error))
    for filling, places in _kept_layouts(groups, reasons, options, source, notes):
        _remark(notes, filling, [files[place] for place in places])
        for place in places:
            result[place] = filling
    return result, reasons


def _kept_layouts(
    groups: list[tuple[Filling, list[int]]],
    reasons: dict[int, str],
    options: StateDictOptions,
    source: str,
    notes: Notes,
) -> list[tuple[Filling, list[int]]]:
    """The layouts that the rows may have; where others are left out, the one of most files."""
    if len(groups) < 2:
        return groups
    usual = max(groups, key=lambda group: len(group[1]))
    ordered = [usual, *(group for group in groups if group is not usual)]
    some = "; ".join(
        f"{len(places):,} × {filling.layout.size:,} weights as {filling.first[:80]!r}"
        for filling, places in ordered[:_SHOWN]
    )
    more = f"; and {len(groups) - _SHOWN:,} more" if len(groups) > _SHOWN else ""
    text = f"the files have {len(groups):,} layouts ({some}{more})"
    if options.on_other_layout == "fail":
        raise SourceError(f"{source}: {text}; --on-other-layout leave-out keeps those of the first")
    if options.on_other_layout == "ragged":
        notes.add([Note("state-layouts", f"{text}; rows are lists of any length", whole=True)])
        return groups
    reason = f"its tensors are not those of most files, as {usual[0].first[:80]!r}"
    for _, places in ordered[1:]:
        reasons |= dict.fromkeys(places, reason)
    notes.add([Note("state-layouts", f"{text}; all but those of the first are left out", whole=True)])
    return [usual]


def _remark(notes: Notes, filling: Filling, files: Sequence[StateFile]) -> None:
    """Count what the files of a layout are noted for."""
    counts = Counter(file.kinds for file in files)
    for kinds, count in counts.items():
        for remark in dict.fromkeys(remark for kind in kinds for remark in kind.remarks):
            notes.add_counted(remark, count)
    if filling.cast:
        text = f"tensors are converted to float32, as {min(filling.cast)[:80]!r}; values may be rounded"
        notes.add_counted(Note("state-cast", text), len(files))
    if not filling.layout.size:
        text = "all tensors are such as float32 cannot hold, and lie in the column raw; --cast float32 makes weights"
        notes.add_counted(Note("state-all-raw", text), len(files))

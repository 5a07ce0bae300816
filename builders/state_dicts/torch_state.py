"""Files of `torch.save` that hold a state dict somewhere: found in what a training loop put around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from zoo_datasets.builders.checkpoints.pickled import StandIn, TensorStub
from zoo_datasets.builders.checkpoints.torch_file import Slices, open_archive, read_pickle, state_tensors, structure_of
from zoo_datasets.builders.checkpoints.wrapped import WRAPPED
from zoo_datasets.builders.shards.notes import Note, shown
from zoo_datasets.builders.state_dicts.kinds import FileKind, common_prefix, prefix_note
from zoo_datasets.errors import CheckpointError

_DEPTH = 4  # dictionaries within each other that are looked into
# Names that training loops give the one that counts where there are others: averaged ones, teachers.
_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
# What holds tensors that are no weights.
_OTHERS = ("optim", "sched", "scaler", "rng", "grad")
_CANDIDATES = 5


def describe_torch(data: Slices) -> FileKind:
    """The one dictionary of tensors in a file, and the numbers and texts beside it.

    Raises:
        CheckpointError: if it is not a file of `torch.save`, names what is no data, or holds none or several.
    """
    members, starts = open_archive(data, sys.maxsize)
    content = read_pickle(data, members, starts, WRAPPED)
    place, state = _state_of(content)
    stubs = {name: value for name, value in state.items() if isinstance(value, TensorStub)}
    prefix = common_prefix(list(stubs))
    stubs = {name[len(prefix) :]: stub for name, stub in stubs.items()}
    ties = _ties(stubs)
    stored = {name: stub for name, stub in stubs.items() if name not in ties}
    structure = structure_of(data, members, starts, state_tensors(stored, members, starts, shared=len(data)))
    return FileKind(
        structure=structure,
        columns=(_scalars(content) if place else {}) | _scalars(state),
        ties=ties,
        order=tuple(stubs),
        remarks=(*_wrapper_note(place, content), *prefix_note(prefix)),
    )


def _state_of(content: Any) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """The keys that lead to the dictionary of tensors, and the dictionary."""
    if not isinstance(content, dict):
        what = f"an object of {content.name}" if isinstance(content, StandIn) else f"a {type(content).__name__}"
        raise CheckpointError(f"it holds {what}, expected a state dict: torch.save(model.state_dict(), FILE)")
    candidates = list(_candidates(content, ()))
    if not candidates:
        raise CheckpointError("it holds no dictionary of tensors; expected torch.save(model.state_dict(), FILE)")
    if len(candidates) == 1:
        return candidates[0]
    for usual in _USUAL:
        named = [(place, state) for place, state in candidates if place[-1] == usual]
        if len(named) == 1:
            return named[0]
    places = ", ".join(_shown(place) for place, _ in candidates[:_CANDIDATES])
    raise CheckpointError(
        f"it holds {len(candidates):,} dictionaries of tensors ({places}), and nothing tells which are the weights; "
        "save the one that counts by itself"
    )


def _candidates(
    value: Mapping[Any, Any], place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if _is_state(value):
        yield place, value
        return
    for key, below in value.items():
        if (
            isinstance(key, str)
            and isinstance(below, dict)
            and len(place) < _DEPTH
            and not any(other in key.lower() for other in _OTHERS)
        ):
            yield from _candidates(below, (*place, key))


def _is_state(value: Mapping[Any, Any]) -> bool:
    """Whether a dictionary holds tensors under names, and else nothing but numbers and texts."""
    others = [item for item in value.values() if not isinstance(item, TensorStub)]
    return (
        len(others) < len(value)
        and all(isinstance(key, str) for key in value)
        and all(item is None or isinstance(item, (bool, int, float, str)) for item in others)
    )


def _scalars(content: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, (bool, int, float, str))
    }


def _ties(stubs: Mapping[str, TensorStub]) -> dict[str, str]:
    """By the name of a tensor that is the same view of the same storage as an earlier one, the earlier one's name."""
    first: dict[TensorStub, str] = {}
    names = {name: first.setdefault(stub, name) for name, stub in stubs.items() if stub.size}
    return {name: other for name, other in names.items() if other != name}


def _wrapper_note(place: tuple[str, ...], content: Mapping[Any, Any]) -> tuple[Note, ...]:
    if not place:
        return ()
    beside = [str(key) for key in content if key != place[0]]
    rest = f", beside {', '.join(map(shown, beside[:_CANDIDATES]))}" if beside else ""
    return (Note("state-wrapped", f"the tensors are those under {_shown(place)}{rest}"),)


def _shown(place: tuple[str, ...]) -> str:
    return " → ".join(map(shown, place)) or "the file itself"

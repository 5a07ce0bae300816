"""The list of the members of a cohort: members.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from zoo_datasets.documents import problems_of, read_json
from zoo_datasets.errors import RunError
from zoo_datasets.runs.checked import UNREADABLE
from zoo_datasets.specs.members import Member
from zoo_datasets.specs.spec import digest_of
from zoo_datasets.text import one_line

_MEMBERS: TypeAdapter[list[Member]] = TypeAdapter(list[Member])


def read_members(file: Path) -> list[Member]:
    """The members that a file lists, in the order of the stack.

    Raises:
        RunError: if it is missing or broken.
    """
    try:
        members = _MEMBERS.validate_python(read_json(file))
        if not members:
            raise ValueError("it lists no models")
        for member in members:
            member.check()
        return members
    except ValidationError as error:
        problem = f"is no list of members: {problems_of(error)}"
    except UNREADABLE as error:
        problem = f"could not be read: {one_line(error)}"
    raise RunError(f"{file} {problem}; delete it, and the command that trained the run writes it again")


def digest_of_members(members: Sequence[Member]) -> str:
    """What records say of their models: a hash of the ids, in order."""
    return digest_of([member.model_id for member in members])[:16]

"""What a verification looked at and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at, what of it, and whether all of it is right."""

    name: str
    detail: str
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Something that is not as it should be: which check found it, and what was found and expected."""

    check: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a verification found. `rows` counts those of a repository, or the states of a run; `recomputed` those whose
    figures were computed anew; `unchecked` names what could not be checked, and why."""

    config: str
    rows: int
    recomputed: int
    checks: tuple[Check, ...]
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


@dataclass(slots=True)
class Findings:
    """Checks and differences so far."""

    checks: list[Check] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def differs(self, check: str, message: str) -> None:
        """Record a difference."""
        self.differences.append(Difference(check=check, message=message))
        self._counts[check] = self._counts.get(check, 0) + 1

    def differ(self, check: str, messages: list[str]) -> None:
        """Record many of one kind: the first few, and how many more there are."""
        for message in messages[:_SHOWN]:
            self.differs(check, message)
        if len(messages) > _SHOWN:
            self.differs(check, f"… and {len(messages) - _SHOWN:,} more like these")

    def checked(self, check: str, detail: str) -> None:
        """Close a check; it passed if nothing was found under its name."""
        self.checks.append(Check(name=check, detail=detail, passed=self.passed(check)))

    def unchecked(self, what: str) -> None:
        """Record what cannot be checked, and why."""
        self.missing.append(what)

    def passed(self, check: str) -> bool:
        """Whether nothing was found under a check's name so far."""
        return check not in self._counts

    def verification(self, config: str, rows: int, recomputed: int) -> Verification:
        """The checks that were made and what differs, as one value."""
        checks, differences = tuple(self.checks), tuple(self.differences)
        return Verification(
            config=config,
            rows=rows,
            recomputed=recomputed,
            checks=checks,
            differences=differences,
            unchecked=tuple(self.missing),
        )

"""The progress bar of the commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from zoo_datasets.terminal import Advance, Fetched


@contextlib.contextmanager
def progress_bar(console: Console, title: str, unit: str) -> Iterator[Advance]:
    """A bar that is advanced by calling it with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from zoo_datasets.terminal import TaskText

    columns = (TaskText(title), BarColumn(), MofNCompleteColumn(), TaskText(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def transfer_bar(console: Console, title: str = "", unit: str = "") -> Iterator[tuple[Fetched, Advance]]:
    """A bar for what is fetched, advanced by (what, done, total), and one for the work after it, as `progress_bar`."""
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    from zoo_datasets.terminal import TaskText

    texts = (TaskText("{task.description}"), TaskText("{task.fields[amount]}"))
    with Progress(
        texts[0], BarColumn(), texts[1], TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        transfers: dict[str, TaskID] = {}
        work = progress.add_task(title, total=None, amount="", visible=False)

        def fetched(what: str, done: int, total: int) -> None:
            if what not in transfers:
                for earlier in transfers.values():
                    progress.update(earlier, visible=False)
                transfers[what] = progress.add_task(f"fetching {what}", total=None, amount="")
            progress.update(
                transfers[what], visible=True, completed=done, total=total or None, amount=_amount(what, done, total)
            )

        def advance(done: int, total: int) -> None:
            for earlier in transfers.values():
                progress.update(earlier, visible=False)
            progress.update(work, completed=done, total=total, amount=f"{done:,}/{total:,} {unit}", visible=True)

        yield fetched, advance


def _amount(what: str, done: int, total: int) -> str:
    """Bytes as megabytes; of folders, files are counted."""
    counted = what.startswith(("files", "entries"))
    done_of = [f"{value:,}" if counted else f"{value / 1e6:,.1f}" for value in (done, total)]
    return f"{done_of[0]}{f' of {done_of[1]}' if total else ''}{'' if counted else ' MB'}"

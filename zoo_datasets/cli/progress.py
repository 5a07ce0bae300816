"""The progress bars of the commands: one look for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from zoo_datasets.terminal import Advance, Fetched


def progress_bars(console: Console) -> Progress:
    """An empty display of bars, shown on a terminal alone; `add_bar` adds one."""
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    from zoo_datasets.terminal import TaskText

    return Progress(
        TaskText("{task.description}"),
        BarColumn(),
        TaskText("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def add_bar(bars: Progress, title: str, *, visible: bool = True) -> TaskID:
    """A bar that pulses until its `total` is known; its `amount` is the text behind it."""
    return bars.add_task(title, total=None, amount="", visible=visible)


@contextlib.contextmanager
def progress_bar(console: Console, title: str, unit: str) -> Iterator[Advance]:
    """A bar that is advanced by calling it with (done, total)."""
    with progress_bars(console) as bars:
        task = add_bar(bars, title)
        yield lambda done, total: bars.update(task, completed=done, total=total, amount=amount_of(done, total, unit))


@contextlib.contextmanager
def transfer_bar(console: Console, title: str = "", unit: str = "") -> Iterator[tuple[Fetched, Advance]]:
    """A bar for what is fetched, advanced by (what, done, total), and one for the work after it, as `progress_bar`."""
    with progress_bars(console) as bars:
        transfers: dict[str, TaskID] = {}
        work = add_bar(bars, title, visible=False)

        def fetched(what: str, done: int, total: int) -> None:
            if what not in transfers:
                hide_transfers()
                transfers[what] = add_bar(bars, f"fetching {what}")
            amount = _transferred(what, done, total)
            bars.update(transfers[what], visible=True, completed=done, total=total or None, amount=amount)

        def hide_transfers() -> None:
            for transfer in transfers.values():
                bars.update(transfer, visible=False)

        def advance(done: int, total: int) -> None:
            hide_transfers()
            bars.update(work, completed=done, total=total, amount=amount_of(done, total, unit), visible=True)

        yield fetched, advance


def amount_of(done: int, total: int, unit: str) -> str:
    """`24/36 states`."""
    return f"{done:,}/{total:,} {unit}"


def _transferred(what: str, done: int, total: int) -> str:
    """Bytes as megabytes; of folders, files are counted."""
    counted = what.startswith(("files", "entries"))
    done_of = [f"{value:,}" if counted else f"{value / 1e6:,.1f}" for value in (done, total)]
    return f"{done_of[0]}{f' of {done_of[1]}' if total else ''}{'' if counted else ' MB'}"

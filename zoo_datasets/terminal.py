"""The terminal: consoles, lines and bars that show text as it is, without markup, and escape what is not to be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Task, TextColumn
from rich.style import Style
from rich.text import Text

from zoo_datasets.text import printable

# Called with how much of the work is done and how much there is.
Advance = Callable[[int, int], None]
# Called with what is done next, or what a person should know: a line of text.
Tell = Callable[[str], None]
# Called with what is under way, how much of it is done, and how much there is (0: not known).
Fetched = Callable[[str, int, int], None]


def shown(text: object) -> Text:
    """A text on one line, as any console shows it."""
    return Text(printable(text))


def say(console: Console, text: object) -> None:
    """Print one line, whatever the width of the terminal."""
    console.print(shown(text), soft_wrap=True)


class Terminal(Console):
    """A console for which every string, also in a table or as a title, is `shown`: markup is text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, *, style: str | Style = "", **options: Any) -> Text:
        """The text that is printed for a string; alignment and overflow are kept, markup is none."""
        kept = {name: options[name] for name in ("justify", "overflow") if name in options}
        return Text(printable(text), style=style, **kept)


def tables(width: int) -> Terminal:
    """Standard output; where it is no terminal, as wide as a table needs: one cut to 80 columns is hard to search."""
    console = Terminal()
    return console if console.is_terminal else Terminal(width=width)


@contextlib.contextmanager
def working(console: Console, text: object) -> Iterator[Callable[[object], None]]:
    """Show what is being done while it is; give the function to call with what is done next."""
    with console.status(shown(text)) as status:
        yield lambda text: status.update(shown(text))


class TaskText(TextColumn):
    """A column of a progress bar: a format of its task, as `{task.description}`."""

    def render(self, task: Task) -> Text:
        """The text as it is `shown`."""
        return shown(self.text_format.format(task=task))

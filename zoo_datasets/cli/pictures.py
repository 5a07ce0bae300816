"""The options for pictures that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

Png = Annotated[Path | None, typer.Option("--png", metavar="FOLDER", help="A folder for the plots as PNG.")]
Svg = Annotated[Path | None, typer.Option("--svg", metavar="FOLDER", help="A folder for the plots as SVG.")]
Pdf = Annotated[Path | None, typer.Option("--pdf", metavar="FOLDER", help="A folder for the plots as PDF.")]


def write_pictures(
    console: Console, png: Path | None, svg: Path | None, pdf: Path | None, write: Callable[[Path, str], list[Path]]
) -> None:
    """Call `write` with the folder and form of each kind of picture that is wanted, and say what was written."""
    from zoo_datasets.terminal import say

    for form, folder in (("png", png), ("svg", svg), ("pdf", pdf)):
        if folder is not None:
            say(console, f"{folder}: {len(write(folder, form))} plots as {form.upper()}")

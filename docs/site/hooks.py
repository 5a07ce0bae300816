"""What the documentation site adds: pages and names that no list has, help of the commands, diagrams in its colours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import typer.main

_REST = "What is there"
_FURTHER = "<!-- further -->"
_DOCUMENTED = re.compile(r"^::: zoo_datasets\.(\w+)$", re.MULTILINE)
_COMMANDS = "<!-- commands -->"
# A file of the repository that is no page: GitHub follows such a link, a site knows no address for it.
_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\((?:\.\./)+(?P<path>[\w./-]+)\)")
_IMAGE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="[^"]*pictures/(?P<name>[\w-]+\.svg)"[^>]*/?>')
# A drawing that takes its colours from the page around it.
_COLOURED_BY_PAGE = "svg:root"


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not name into one of its sections."""
    named = set(_pages_in(config.nav))
    pages = sorted(page.relative_to(config.docs_dir).as_posix() for page in Path(config.docs_dir).rglob("*.md"))
    (rest,) = (section[_REST] for section in config.nav if _REST in section)
    rest += [page for page in pages if page not in named]
    return config


def _pages_in(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in _pages_in(part)]


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Insert the help of all commands, and name files outside the site instead of linking them."""
    text = _OUTSIDE.sub(lambda link: f"{link['text']} (`{link['path']}`)", markdown)
    if _FURTHER in text:
        text = text.replace(_FURTHER, _further_names(Path(config.docs_dir) / "api"))
    return text.replace(_COMMANDS, _all_commands()) if _COMMANDS in text else text


def on_page_content(html: str, *, config: Any, **_: Any) -> str:
    """Put diagrams into the page itself, where they see its colours."""

    def inline(image: re.Match[str]) -> str:
        drawing = (Path(config.docs_dir) / "pictures" / image["name"]).read_text()
        if _COLOURED_BY_PAGE not in drawing:
            return image[0]
        drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{image["alt"]}" ', 1)
        return f'<span class="diagram">{drawing}</span>'

    return _IMAGE.sub(inline, html)


def _further_names(folder: Path) -> str:
    """An entry for each public name of the package that no page of a folder has."""
    import zoo_datasets

    documented = {name for page in folder.glob("*.md") for name in _DOCUMENTED.findall(page.read_text())}
    names = sorted({*zoo_datasets.__all__} - documented - {"__version__"})
    return "\n\n".join(f"::: zoo_datasets.{name}" for name in names) or "None."


def _all_commands() -> str:
    from zoo_datasets.cli.app import app

    group = typer.main.get_command(app)
    context = click.Context(group, info_name="zoo")
    return "\n\n".join(_command(group.get_command(context, name), context) for name in group.list_commands(context))


def _command(command: click.Command, parent: click.Context) -> str:
    """The name of a command, and its help of 80 columns."""
    context = click.Context(command, info_name=command.name, parent=parent, terminal_width=80, max_content_width=80)
    return f"## zoo {command.name}\n\n```text\n{command.get_help(context)}\n```"

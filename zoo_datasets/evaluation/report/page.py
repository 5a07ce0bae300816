"""One self-contained page about a zoo: no network, no files beside it."""

from __future__ import annotations

import html
import re
from importlib import resources
from pathlib import Path
from typing import Any

from zoo_datasets.storage.files import write_bytes
from zoo_datasets.text import all_printable, json_text


def write_report(content: dict[str, Any], out: Path) -> None:
    """Write the content that `report_data.gather` gives as an HTML page.

    Raises:
        StorageError: if the file cannot be written.
    """
    write_bytes(out, page(content).encode())


def page(content: dict[str, Any]) -> str:
    """The page as a text."""
    folder = resources.files("zoo_datasets.evaluation.report")
    content = all_printable(content)
    parts = {
        "@TITLE@": html.escape(f"{content['name']} – model zoo"),
        "@CSS@": (folder / "report.css").read_text(encoding="utf-8"),
        "@JS@": (folder / "report.js").read_text(encoding="utf-8"),
        # No text of a zoo can end the script that holds it.
        "@CONTENT@": json_text(content, allow_nan=False).replace("<", "\\u003c"),
    }
    # In one pass: no mark in a text is filled in.
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], (folder / "report.html").read_text(encoding="utf-8"))

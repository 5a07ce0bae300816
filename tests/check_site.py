"""That no page of a built site asks any server for anything: `python tests/check_site.py build/site`."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

# What a browser loads by itself; links that a person follows are no requests.
_LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "srcset"), ("iframe", "src")}
_NOT_LOADED = {"canonical", "next", "prev", "edit"}
_IN_CSS = re.compile(r"""url\(\s*["']?((?:https?:)?//[^"')]+)|@import\s+["']((?:https?:)?//[^"']+)""")
# The theme fetches the program that draws these.
_FETCHES = re.compile(r'class="[^"]*\bmermaid\b')


class _Page(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in _NOT_LOADED:
            return
        self.outside += [
            value for name, value in attrs if (tag, name) in _LOADED and value and re.match(r"(https?:)?//", value)
        ]


def requests_of(site: Path) -> list[str]:
    """File and address of everything that is loaded from elsewhere."""
    requests = []
    for file in sorted(site.rglob("*.html")):
        text = file.read_text()
        page = _Page()
        page.feed(text)
        requests += [f"{file}: {address}" for address in page.outside]
        requests += [f"{file}: a diagram of mermaid"] * bool(_FETCHES.search(text))
    for file in sorted(site.rglob("*.css")):
        requests += [f"{file}: {first or second}" for first, second in _IN_CSS.findall(file.read_text())]
    return requests


def main() -> None:
    """Print what was looked at; exit 1 if a request leaves."""
    site = Path(sys.argv[1])
    pages = len(list(site.rglob("*.html")))
    if not pages:
        raise SystemExit(f"{site} holds no page; build it with `make docs`")
    if requests := requests_of(site):
        raise SystemExit("\n".join(requests))
    print(f"{site}: {pages} pages, no request leaves them")


if __name__ == "__main__":
    main()

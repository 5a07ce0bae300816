"""The text of a card, below its YAML: what a person wrote, a line for each zoo, and the citation; and a zoo's page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from zoo_datasets.documents import whole_number
from zoo_datasets.repository.credit import UNKNOWN_LICENCE, Credit, credit_of
from zoo_datasets.repository.departures import departures
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.repository.places import LAYOUTS, META, META_FOLDER
from zoo_datasets.text import markdown, markdown_cell, markdown_code, printable, ranges

YOURS = ("<!-- yours -->", "<!-- /yours -->")
# Stands in the examples until the repository has a name.
SOMEWHERE = "path/or/name/of/this/repository"

_INVITATION = "<!-- What you write between these two marks is kept when the card is written again. -->"
_YOURS_PATTERN = re.compile(re.escape(YOURS[0]) + r"(.*?)" + re.escape(YOURS[1]), re.DOTALL)
_AXES = ("activation", "init", "optimizer", "lr", "weight_decay", "dropout", "batch_size")
_DOI = re.compile(r"10\.\d{4,9}/[\w./;()-]+", re.ASCII)
_ALT = {"accuracy": "Train and test accuracy over epochs", "sparsity": "Sparsity over epochs"}

# A page of a zoo's own, beside its manifest.
PAGE = "README.md"
_TABLE = ("zoo", "rows", "models", "epochs", "network", "images", "licence")
_LINE = re.compile(rf"^\| \[(\S+)\]\({META_FOLDER}/\1/{re.escape(PAGE)}\) \| ([\d,]+) \|.*\|$", re.MULTILINE)

CITATION = "Citation"
_BIBTEX = re.compile(r"(?:@[A-Za-z]+\{[^`<>#]+\}\s*)+", re.ASCII)
_LINK = re.compile(r"https?://[^\s<>()\[\]|`\"']+", re.ASCII)
_LICENCES = {"cc-by-4.0": "[CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/)"}
_LICENCE_CELL = re.compile(r"\| (?:\[([^\[\]|]*)\]\(([^()\s]*)\)|([^|]*)) \|$")
_ATTRIBUTION = (
    "**Attribution.** The models of this zoo were trained and published by {authors} under {licence}{where}. Changed "
    "here: checkpoints became rows of float32 vectors with tensors in one order, and were cut into splits anew."
)
_EXAMPLE = """```python
from datasets import load_dataset

zoo = load_dataset("{location}", "{zoo}")
table = load_dataset("{location}", "{zoo}{meta}")  # without weights

# a row back into a network, with pip install zoo-datasets
from zoo_datasets import to_module

network = to_module(next(iter(zoo.values()))[0])
```
"""
_DIFFERS = "What differs from the published zoo of this recipe:"
_TO_KNOW = "What to know of the published zoo:"
_UNKNOWN = (
    "**Attribution.** This zoo was imported, origin unknown: nothing in its files says that they belong to a "
    "published zoo. Who knows whose models these are, and under which licence, should say so at the top."
)


def yours(text: str) -> str:
    """What a person wrote in a card; empty if nobody did."""
    kept = _YOURS_PATTERN.search(text)
    # Without marks the text is not ours, so all of it was written by a person.
    written = kept[1].strip("\n") if kept else text.strip()
    return "" if written.strip() == _INVITATION else written


def lines_of(text: str) -> dict[str, str]:
    """The lines of a card's table, by zoo."""
    return {match[1]: match[0] for match in _LINE.finditer(_YOURS_PATTERN.sub("", text, count=1))}


def rows_in(line: str) -> int:
    """The number of rows that a line of the table tells; 0 if it tells none."""
    match = _LINE.fullmatch(line)
    return (whole_number(match[2].replace(",", "")) or 0) if match else 0


def table_line(manifest: Manifest) -> str:
    """A zoo's line of the table, which links to its page."""
    credit = credit_of(manifest.source)
    cells = (
        f"{manifest.rows():,}",
        f"{manifest.models.written:,}",
        markdown_cell(ranges(manifest.epochs)),
        "networks of any kind" if manifest.network is None else markdown_code(manifest.network.architecture),
        markdown_cell(manifest.zoo.get("images") or "not recorded"),
        _licence(credit),
    )
    return f"| [{manifest.config}]({META_FOLDER}/{manifest.config}/{PAGE}) | {' | '.join(cells)} |"


def licence_in(line: str) -> tuple[str, str]:
    """The name of a licence in a line of the table, and its address, which is empty for those that the Hub knows."""
    match = _LICENCE_CELL.search(line)
    if match is None:
        return UNKNOWN_LICENCE, ""
    for licence, shown in _LICENCES.items():
        if match[0] == f"| {shown} |":
            return licence, ""
    name = re.sub(r"\\(.)", r"\1", match[1] or match[3] or "").strip("` ")
    return name, match[2] or ""


def _licence(credit: Credit) -> str:
    shown = _LICENCES.get(credit.licence) or markdown_cell(credit.licence)
    return f"[{shown}]({credit.licence_link})" if _LINK.fullmatch(credit.licence_link) else shown


def sections_of(text: str, names: Iterable[str]) -> dict[str, str]:
    """The sections that earlier versions wrote into a card's text, by zoo."""
    generated = _YOURS_PATTERN.sub("", text, count=1)
    bodies = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", generated, re.DOTALL | re.MULTILINE))
    return {name: f"## {name}\n{bodies[name]}".rstrip() + "\n" for name in names if name in bodies}


def card_text(
    written: str,
    lines: Mapping[str, str],
    sections: Mapping[str, str],
    citations: Sequence[str],
    zoos: Sequence[str],
    location: str,
) -> str:
    """The whole text: what a person wrote, how to load, a table of the zoos by name, and what to cite.

    Args:
        lines: of the table, by zoo.
        sections: of zoos that an earlier version described, by zoo.
        zoos: the names of all.
        location: of the repository.
    """
    head = (
        "# Model zoos\n\n"
        f"{YOURS[0]}\n{written or _INVITATION}\n{YOURS[1]}\n\n"
        "Populations of neural networks as datasets. A row is one model at one epoch: its weights as one flat vector, "
        "its hyperparameters, its losses and accuracies. A model is wholly in one split. The configs whose names end "
        f"in `{META}` hold the same rows without the weights.\n"
    )
    parts = [head]
    if zoos:
        parts.append(_EXAMPLE.format(location=location, zoo=zoos[0], meta=META))
    if lines:
        header = [f"| {' | '.join(_TABLE)} |", f"|{'---|' * len(_TABLE)}"]
        parts.append("\n".join([*header, *(lines[name] for name in sorted(lines)), ""]))
    cited = [f"## {CITATION}\n", *citations] if citations else []
    return "\n".join([*parts, *(sections[name] for name in sorted(sections)), *cited])


def citations_in(text: str) -> list[str]:
    """What a card's text cites, each with its entry for BibTeX."""
    section = sections_of(text, [CITATION]).get(CITATION, "").removeprefix(f"## {CITATION}\n")
    parts = (part.strip("\n") for part in re.split(r"(?<=\n```\n)", section))
    return [f"{part}\n" for part in parts if part]


def citations_of(manifest: Manifest) -> list[str]:
    """What a zoo's page cites: the paper of its recipes, and what was stated; none that is not valid BibTeX."""
    credit = credit_of(manifest.source)
    cited = []
    bibtex = _valid_bibtex(credit.paper.bibtex) if credit.paper is not None else None
    if credit.paper is not None and bibtex is not None:
        title = markdown(credit.paper.title)
        emphasised = title if title.startswith("`") else f"*{title}*"
        whose = f"The recipes are those of {markdown(credit.paper.authors)}, {emphasised}:"
        cited.append(f"{whose}\n\n```bibtex\n{bibtex}\n```\n")
    stated = _valid_bibtex(credit.citation)
    if stated is not None:
        cited.append(f"For {manifest.config}:\n\n```bibtex\n{stated}\n```\n")
    return cited


def bibtex_of(manifest: Manifest) -> list[str]:
    """The BibTeX of all that a zoo's models and recipes are of."""
    credit = credit_of(manifest.source)
    texts = (credit.paper.bibtex if credit.paper is not None else "", credit.citation)
    return [bibtex for text in texts if (bibtex := _valid_bibtex(text)) is not None]


def _valid_bibtex(text: str) -> str | None:
    bibtex = "\n".join(map(printable, text.strip().split("\n")))
    return bibtex if _BIBTEX.fullmatch(bibtex) else None


def page_of(manifest: Manifest) -> str:
    """The page of a zoo: recipe, grid, counts, plots, what was left out, whose it is and what to cite."""
    lines = [f"# {manifest.config}", "", *_recipe(manifest), ""]
    lines += [
        f"{manifest.models.written:,} models, {manifest.rows():,} rows, epochs {ranges(manifest.epochs)}; "
        f"{_weights(manifest)}",
        "",
        "| split | models | rows | files |",
        "|---|---|---|---|",
        *(
            f"| {markdown_cell(shard.split)} | {shard.models:,} | {shard.rows:,} | {_files(manifest, shard.split)} |"
            for shard in manifest.meta
        ),
        "",
        *_plots(manifest),
        *_further(manifest),
        *_left_out(manifest),
    ]
    about = [*_origin(manifest), *_stated(manifest), *_departures(manifest), *citations_of(manifest)]
    return "\n".join([*lines, *about])


def _departures(manifest: Manifest) -> list[str]:
    sentences = departures(manifest)
    if not sentences:
        return []
    trained = credit_of(manifest.source).origin == "trained"
    return [_DIFFERS if trained else _TO_KNOW, "", *(f"- {sentence}" for sentence in sentences), ""]


def _weights(manifest: Manifest) -> str:
    if manifest.open is None:
        return f"`weights` has {manifest.one_layout('the card').size:,} entries."
    layouts = sum(shard.rows for shard in manifest.layouts)
    if manifest.open.size is not None:
        return f"`weights` has {manifest.open.size:,} entries; `{manifest.config}{LAYOUTS}` tells their layout."
    return f"`weights` are lists of {layouts:,} layouts, which `{manifest.config}{LAYOUTS}` tells."


def _further(manifest: Manifest) -> list[str]:
    """The columns of its own that a zoo has."""
    if manifest.open is None or not manifest.open.further:
        return []
    rows = [
        f"| {markdown_code(column.name)} | {column.type} | {markdown_cell(column.doc)} |"
        for column in manifest.open.further
    ]
    return ["| further column | type | |", "|---|---|---|", *rows, ""]


def _files(manifest: Manifest, split: str) -> str:
    sizes = [shard.bytes for shard in manifest.shards if shard.split == split]
    return f"{len(sizes):,} of {sum(sizes) / 1e6:,.1f} MB in all"


def _plots(manifest: Manifest) -> list[str]:
    lines = []
    for path in manifest.plots:
        name = path.rpartition("/")[2].removesuffix(".png")
        lines += [f"![{_ALT.get(name, 'Plot')}]({quote(path.rpartition('/')[2], errors='replace')})", ""]
    return lines


def _origin(manifest: Manifest) -> list[str]:
    """Whose models these are, where they were not trained by this package, or whose recipe it is."""
    doi = str(manifest.zoo.get("doi") or "")
    address = f"https://doi.org/{doi}" if _DOI.fullmatch(doi) else markdown(doi)
    credit = credit_of(manifest.source)
    if credit.origin == "unknown":
        return [_UNKNOWN, ""]
    if credit.origin == "published":
        licence = _LICENCES.get(credit.licence) or markdown(credit.licence)
        if credit.licence == UNKNOWN_LICENCE:
            licence = "a licence that they do not state"
        where = f", {address}" if doi else ""
        return [_ATTRIBUTION.format(authors=markdown(credit.authors), licence=licence, where=where), ""]
    return [f"The published zoo of this recipe: {address}", ""] if doi else []


def _networks(manifest: Manifest) -> str:
    network, layout = manifest.network, manifest.layout
    if network is None or layout is None:
        return "Networks of any kind, one row a state."
    noun = "channel" if network.in_channels == 1 else "channels"
    return (
        f"{markdown_code(network.architecture)} ({network.in_channels} input {noun}, {network.classes} classes, "
        f"{layout.parameters:,} parameters) on {markdown(manifest.zoo.get('images', 'images that are not recorded'))}."
    )


def _stated(manifest: Manifest) -> list[str]:
    """What who built the zoo stated of its origin and licence."""
    credit = credit_of(manifest.source)
    lines = [f"**Origin.** As who built this zoo states: {markdown(credit.place)}", ""] if credit.place else []
    return [*lines, f"**Licence.** {_licence(credit)}", ""] if credit.licence != UNKNOWN_LICENCE else lines


def _recipe(manifest: Manifest) -> list[str]:
    zoo = manifest.zoo
    lines = [_networks(manifest)]
    named = [(axis, zoo[axis]) for axis in (*_AXES, "scheduler", "augmentation") if zoo.get(axis)]
    if named:
        lines += ["", "| recipe | |", "|---|---|"]
        for axis, value in named:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            lines.append(f"| {axis} | {markdown_cell(text)} |")
    lengths = [len(zoo[axis]) for axis in _AXES if isinstance(zoo.get(axis), (list, tuple))]
    if math.prod(lengths) > 1 or zoo.get("seeds"):
        points = f"{' × '.join(str(n) for n in lengths if n > 1) or 1} points" if math.prod(lengths) > 1 else "1 point"
        seeds = f" × {_count(zoo['seeds'])} seeds" if zoo.get("seeds") else ""
        lines += ["", f"The grid of the recipe: {points}{seeds}."]
    limits = manifest.source.get("limits") or {}
    limited = ", ".join(f"{_count(limit)} {markdown(split)}" for split, limit in limits.items() if limit is not None)
    if limited:
        lines += ["", f"Only the first {limited} images were used."]
    return lines


def _left_out(manifest: Manifest) -> list[str]:
    if not manifest.left_out:
        return ["Nothing was left out.", ""]
    models: dict[str, set[str]] = {}
    states: dict[str, int] = {}
    for entry in manifest.left_out:
        models.setdefault(entry.reason, set()).add(entry.model)
        states[entry.reason] = states.get(entry.reason, 0) + len(entry.epochs)
    lines = ["Left out (`manifest.json` beside this page names each):", ""]
    lines += ["| reason | models | states |", "|---|---|---|"]
    reasons = list(models)
    lines += [f"| {markdown_cell(reason)} | {len(models[reason]):,} | {states[reason]:,} |" for reason in reasons[:20]]
    if len(reasons) > 20:
        lines.append(f"| {len(reasons) - 20} more reasons | | |")
    return [*lines, ""]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else markdown(value)

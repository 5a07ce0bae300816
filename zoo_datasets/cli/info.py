"""`zoo info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.hub.client import Holdings
    from zoo_datasets.repository.manifest import Manifest

# Columns that the table of zoos needs.
_WIDE = 160


def info(
    repo: Annotated[str, typer.Argument(help="A local dataset repository, or a dataset's id on the Hub.")],
    name: Annotated[str | None, typer.Argument(help="One zoo, in full.", show_default="a table of all")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """What a repository holds, from its metadata alone: zoos, models, epochs, splits, sizes, what was left out."""
    from zoo_datasets.hub.client import read_holdings
    from zoo_datasets.terminal import tables

    holdings = read_holdings(repo, () if name is None else (name,), revision)
    described = _described(holdings, name)
    if as_json:
        typer.echo(json.dumps(described if name is None else described[0], indent=2))
        return
    console = tables(_WIDE)
    at = f" at {holdings.commit}" if holdings.commit else ""
    if holdings.out_of_reach is not None:
        at += f" in the cache ({holdings.out_of_reach})"
    if name is not None:
        _print_one(console, f"{repo}{at}: {name}", described[0])
    else:
        _print_all(console, f"{repo}{at}, {holdings.card.data.get('license')}", described)


def _described(holdings: Holdings, name: str | None) -> list[dict[str, Any]]:
    from zoo_datasets.repository.card import configs_of, info_of, zoos_of

    described = []
    for zoo in zoos_of(configs_of(holdings.card)) if name is None else [name]:
        manifest = holdings.manifests.get(zoo)
        if manifest is not None:
            described.append(_facts(manifest) | ({} if name is None else _details(manifest)))
        else:
            splits = {
                s.get("name", ""): s.get("num_examples") or 0 for s in info_of(holdings.card, zoo).get("splits") or []
            }
            described.append({"name": zoo, "rows": sum(splits.values()) if splits else None, "splits": splits})
    return described


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.config,
        "images": manifest.zoo.get("images"),
        "architecture": manifest.network.architecture,
        "weights": manifest.layout.size,
        "models": manifest.models.written,
        "rows": manifest.rows(),
        "epochs": manifest.epochs,
        "splits": manifest.splits,
        "files": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "left_out": {"models": manifest.models.left_out, "states": manifest.states.left_out},
    }


def _details(manifest: Manifest) -> dict[str, Any]:
    from zoo_datasets.repository.row import COLUMNS

    reasons: dict[str, int] = {}
    for entry in manifest.left_out:
        reasons[entry.reason] = reasons.get(entry.reason, 0) + len(entry.epochs)
    wide = f"float32 [{manifest.layout.size}]"
    columns = [{"name": c.name, "type": wide if c.type is None else str(c.type), "about": c.doc} for c in COLUMNS]
    return {
        "parameters": manifest.layout.parameters,
        "in_channels": manifest.network.in_channels,
        "classes": manifest.network.classes,
        "source": manifest.source.get("kind"),
        "recipe": dict(manifest.zoo),
        "columns": columns + [{"name": name, "type": wide, "about": ""} for name in manifest.extras],
        "reasons": reasons,
    }


def _print_all(console: Console, title: str, described: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("zoo", no_wrap=True)
    for heading in ("weights", "models", "rows", "epochs", "splits", "MB", "left out"):
        table.add_column(heading, justify="right")
    for facts in described:
        known = "models" in facts
        table.add_row(
            facts["name"],
            f"{facts['weights']:,}" if known else "–",
            f"{facts['models']:,}" if known else "–",
            "–" if facts["rows"] is None else f"{facts['rows']:,}",
            _span(facts["epochs"]) if known else "–",
            " / ".join(f"{split} {rows:,}" for split, rows in facts["splits"].items()),
            f"{facts['bytes'] / 1e6:,.1f}" if known else "–",
            f"{facts['left_out']['states']:,} states" if known else "–",
        )
    console.print(table)


def _print_one(console: Console, title: str, facts: dict[str, Any]) -> None:
    from rich.table import Table

    from zoo_datasets.terminal import say

    def line(text: str) -> None:
        say(console, text)

    line(title)
    if "models" not in facts:
        line(f"rows: {facts['splits'] or 'the card does not say'}; not made by `zoo build`, so nothing else is known")
        return
    line(
        f"{facts['architecture']} on {facts['images']}: {facts['parameters']:,} parameters, "
        f"{facts['in_channels']} channels, {facts['classes']} classes; from a {facts['source']}"
    )
    line(f"{facts['models']:,} models, {facts['rows']:,} rows, epochs {_span(facts['epochs'])}")
    line(f"splits: {', '.join(f'{split} {rows:,}' for split, rows in facts['splits'].items())}")
    line(f"{facts['files']:,} files, {facts['bytes'] / 1e6:,.1f} MB")
    line("recipe: " + ", ".join(f"{key} {value}" for key, value in facts["recipe"].items() if value not in (None, [])))
    for reason, states in facts["reasons"].items():
        line(f"left out: {states:,} states: {reason}")
    table = Table()
    for heading in ("column", "type", "about"):
        table.add_column(heading)
    for column in facts["columns"]:
        table.add_row(column["name"], column["type"], column["about"])
    console.print(table)


def _span(epochs: list[int]) -> str:
    if not epochs:
        return "none"
    whole = len(epochs) == epochs[-1] - epochs[0] + 1
    return f"{epochs[0]}–{epochs[-1]}" if whole else f"{epochs[0]}–{epochs[-1]} ({len(epochs)} of them)"

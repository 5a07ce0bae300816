"""`zoo info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    from zoo_datasets.errors import RepositoryError
    from zoo_datasets.hub.client import read_holdings
    from zoo_datasets.repository.removal import gone_message
    from zoo_datasets.terminal import say, tables

    holdings = read_holdings(repo, () if name is None else (name,), revision)
    if name is not None and name in holdings.gone:
        raise RepositoryError(gone_message(holdings.location, name))
    described = _described(holdings, name)
    if as_json:
        typer.echo(json.dumps(described if name is None else described[0], indent=2))
        return
    console = tables(_WIDE)
    at = f" at {holdings.commit}" if holdings.commit else ""
    if holdings.out_of_reach is not None:
        at += f" in the cache ({holdings.out_of_reach})"
    if name is not None:
        _print_one(console, f"{holdings.location}{at}: {name}", described[0])
    else:
        _print_all(console, f"{holdings.location}{at}, {holdings.card.data.get('license')}", described)
        for zoo in holdings.gone:
            say(console, f"warning: {gone_message(holdings.location, zoo)}")


def _described(holdings: Holdings, name: str | None) -> list[dict[str, Any]]:
    from zoo_datasets.repository.card import configs_of, info_of, zoos_of
    from zoo_datasets.repository.card.text import lines_of, rows_in

    described: list[dict[str, Any]] = []
    lines = lines_of(holdings.card.text)
    for zoo in zoos_of(configs_of(holdings.card)) if name is None else [name]:
        if zoo in holdings.gone:
            described.append({"name": zoo, "state": "gone", "rows": None, "splits": {}})
            continue
        manifest = holdings.manifests.get(zoo)
        if manifest is not None:
            described.append(_facts(manifest) | ({} if name is None else _details(manifest)))
        else:
            splits = {
                s.get("name", ""): s.get("num_examples") or 0 for s in info_of(holdings.card, zoo).get("splits") or []
            }
            line = lines.get(zoo)
            rows = sum(splits.values()) if splits else None if line is None else rows_in(line)
            described.append({"name": zoo, "rows": rows, "splits": splits})
    return described


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.config,
        "images": manifest.zoo.get("images"),
        "architecture": None if manifest.network is None else manifest.network.architecture,
        "weights": manifest.open.size
        if manifest.layout is None and manifest.open
        else manifest.one_layout("info").size,
        "layouts": 1 if manifest.open is None else sum(shard.rows for shard in manifest.layouts),
        "models": manifest.models.written,
        "rows": manifest.rows(),
        "epochs": manifest.epochs,
        "splits": manifest.splits,
        "files": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "left_out": {"models": manifest.models.left_out, "states": manifest.states.left_out},
    }


def _details(manifest: Manifest) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for entry in manifest.left_out:
        reasons[entry.reason] = reasons.get(entry.reason, 0) + len(entry.epochs)
    network, layout = manifest.network, manifest.layout
    return {
        "parameters": None if layout is None else layout.parameters,
        "in_channels": None if network is None else network.in_channels,
        "classes": None if network is None else network.classes,
        "source": manifest.source.get("kind"),
        "recipe": dict(manifest.zoo),
        "columns": _columns(manifest),
        "reasons": reasons,
    }


def _columns(manifest: Manifest) -> list[dict[str, str]]:
    from zoo_datasets.repository.row import COLUMNS, RAW, WEIGHTS

    if manifest.open is not None:
        size = "float32 of any length" if manifest.open.size is None else f"float32 [{manifest.open.size}]"
        narrow = [{"name": c.name, "type": str(c.type), "about": c.doc} for c in manifest.open.narrow]
        raw = [{"name": RAW, "type": "bytes", "about": "tensors that float32 cannot hold"}] * manifest.open.raw
        return [*narrow, *raw, {"name": WEIGHTS, "type": size, "about": "in the order of the row's layout"}]
    wide = f"float32 [{manifest.one_layout('info').size}]"
    columns = [{"name": c.name, "type": wide if c.type is None else str(c.type), "about": c.doc} for c in COLUMNS]
    return columns + [{"name": name, "type": wide, "about": ""} for name in manifest.extras]


def _print_all(console: Console, title: str, described: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("zoo", no_wrap=True)
    for heading in ("weights", "models", "rows", "epochs", "splits", "MB", "left out"):
        table.add_column(heading, justify="right")
    for facts in described:
        has_manifest = "models" in facts
        table.add_row(
            facts["name"],
            _weights(facts) if has_manifest else "–",
            f"{facts['models']:,}" if has_manifest else "–",
            "–" if facts["rows"] is None else f"{facts['rows']:,}",
            _span(facts["epochs"]) if has_manifest else "–",
            "gone: no file exists"
            if facts.get("state") == "gone"
            else " / ".join(f"{split} {rows:,}" for split, rows in facts["splits"].items()),
            f"{facts['bytes'] / 1e6:,.1f}" if has_manifest else "–",
            f"{facts['left_out']['states']:,} states" if has_manifest else "–",
        )
    console.print(table)


def _print_one(console: Console, title: str, facts: dict[str, Any]) -> None:
    from rich.table import Table

    from zoo_datasets.terminal import say
    from zoo_datasets.text import counted

    def line(text: str) -> None:
        say(console, text)

    line(title)
    if "models" not in facts:
        line(f"rows: {facts['splits'] or 'the card does not say'}; not written by `zoo build`, so it says no more")
        return
    if facts["architecture"] is None:
        line(f"{counted(facts['layouts'], 'layout')}, {_weights(facts)} weights; from {facts['source']}")
    else:
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


def _weights(facts: Mapping[str, Any]) -> str:
    return "any number" if facts["weights"] is None else f"{facts['weights']:,}"


def _span(epochs: list[int]) -> str:
    if not epochs:
        return "none"
    whole = len(epochs) == epochs[-1] - epochs[0] + 1
    return f"{epochs[0]}–{epochs[-1]}" if whole else f"{epochs[0]}–{epochs[-1]} ({len(epochs)} of them)"

"""`zoo verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import AllowCode, allow, stoppable
from zoo_datasets.errors import RepositoryError, SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_datasets.evaluation.verify.findings import Verification
    from zoo_datasets.images.prepare import ImageData
    from zoo_datasets.images.signals import Signals
    from zoo_datasets.repository.manifest import Manifest
    from zoo_datasets.specs.images import Pixels
    from zoo_datasets.specs.members import Limits
    from zoo_datasets.specs.spec import ZooSpec

_SHOWN = 5


@stoppable("nothing was changed")
def verify(
    path: Annotated[Path, typer.Argument(help="A local dataset repository, or a run.", metavar="REPO|RUN")],
    name: Annotated[
        str | None, typer.Argument(help="The config of the repository to verify.", show_default="its only one")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A local folder with the images instead of the Hub.", show_default="the Hub")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Rows whose figures are recomputed.")] = 32,
    every: Annotated[bool, typer.Option("--all", help="Recompute the figures of all rows.")] = False,
    files_only: Annotated[bool, typer.Option("--files-only", help="Recompute nothing: no images needed.")] = False,
    limit_val: Annotated[
        int | None, typer.Option(min=1, help="Validation images, where an imported zoo had fewer.")
    ] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Test images, where an imported zoo had fewer.")] = None,
    allow_code: AllowCode = None,
) -> None:
    """Check a config, or a run: checksums, splits, layouts, and figures recomputed from the weights alone."""
    from zoo_datasets.repository.card import CARD
    from zoo_datasets.runs.run import Run
    from zoo_datasets.specs.members import Limits
    from zoo_datasets.terminal import Terminal

    allow(allow_code)
    console = Terminal(stderr=True)
    count = None if every else sample
    limits = Limits(val=limit_val, test=limit_test)
    if Run.exists(path):
        if name is not None or limits != Limits():
            surplus = f"{name!r:.80}" if name is not None else "--limit-…"
            raise SpecError(f"{path} is a run, which has one zoo and records its limits: leave out {surplus}")
        result, unit = _verify_run(console, path, images, count, files_only), "states"
    elif (path / CARD).is_file():
        result, unit = _verify_config(console, path, name, images, limits, count, files_only), "rows"
    else:
        raise RepositoryError(
            f"{path} is neither a run (there is no zoo.json in it) nor a dataset repository (there is no {CARD} in "
            f"it): {_description(path)}"
        )
    _print(Terminal(), result, unit)
    if not result.ok:
        raise typer.Exit(1)


def _verify_run(
    console: Console, path: Path, images: Path | None, sample: int | None, files_only: bool
) -> Verification:
    from zoo_datasets.errors import RunError
    from zoo_datasets.evaluation.verify.run import verify_run
    from zoo_datasets.runs.run import Run

    data = None
    if not files_only:
        try:
            manifest = Run.open(path).manifest
        except RunError:
            pass  # it is what the verification finds first
        else:
            zoo, fingerprint = manifest.zoo, manifest.images.fingerprint
            data = _load(console, zoo, zoo.architecture, images, fingerprint, path)
    with progress_bar(console, "verifying", "cohorts") as advance:
        return verify_run(path, images=data, sample=sample, progress=advance)


def _verify_config(
    console: Console,
    repo: Path,
    name: str | None,
    images: Path | None,
    limits: Limits,
    sample: int | None,
    files_only: bool,
) -> Verification:
    from zoo_datasets.evaluation.verify.fields import records_psnr
    from zoo_datasets.evaluation.verify.verify import verify_repository
    from zoo_datasets.repository.manifest import read_manifest

    config = _only_config(repo) if name is None else name
    data = signals = None
    if not files_only and (repo / config).is_dir():
        manifest = read_manifest(repo, config)
        if manifest is None:
            raise RepositoryError(f"{repo / config} has no manifest.json; build the config again with `zoo build`")
        fingerprint = (manifest.source.get("images") or {}).get("fingerprint")
        if manifest.network is not None:
            data = _load(console, manifest.zoo, manifest.network.architecture, images, fingerprint, repo / config)
        elif records_psnr(manifest):
            signals = _signals(console, manifest, images, fingerprint, repo / config)
        elif fingerprint is not None:  # of a run of several networks, which tells its zoo and all of its images
            data = _load(console, manifest.zoo, manifest.zoo["architecture"], images, fingerprint, repo / config)
        elif manifest.pixels is not None and "architecture" in manifest.zoo:
            pixels = manifest.pixels
            data = _load(console, manifest.zoo, manifest.zoo["architecture"], images, None, repo / config, pixels)
    with progress_bar(console, "verifying", "shards") as advance:
        return verify_repository(
            repo, config, images=data, signals=signals, limits=limits, sample=sample, progress=advance
        )


def _signals(
    console: Console, manifest: Manifest, folder: Path | None, fingerprint: str | None, owner: Path
) -> Signals | None:
    """The images that fields were fitted to; None where the manifest names none of the table, which is said. Those of a
    run are told by their fingerprint, and others are an error."""
    from zoo_datasets.errors import UnknownNameError
    from zoo_datasets.images.signals import Signals
    from zoo_datasets.terminal import say

    name = manifest.zoo.get("images")
    if name is None:
        say(console, "psnr is not recomputed: the manifest names no images, or several")
        return None
    if fingerprint is not None:
        return Signals.prepared(
            _load(console, manifest.zoo, str(manifest.zoo.get("architecture")), folder, fingerprint, owner)
        )
    try:
        return Signals(str(name), folder)
    except UnknownNameError as error:
        say(console, f"psnr is not recomputed: {error}")
        return None


def _load(
    console: Console,
    zoo: ZooSpec | Mapping[str, Any],
    architecture: str,
    folder: Path | None,
    fingerprint: str | None,
    owner: Path,
    pixels: Pixels | None = None,
) -> ImageData:
    from zoo_datasets.cli.images import recorded_images
    from zoo_datasets.terminal import working

    name = zoo.get("images") if isinstance(zoo, Mapping) else zoo.images
    with working(console, f"images: {folder or name}"):
        return recorded_images(zoo, architecture, folder, fingerprint, owner, pixels)


def _only_config(repo: Path) -> str:
    from zoo_datasets.repository.places import configs_with_manifest

    names = configs_with_manifest(repo)
    if len(names) != 1:
        held = f"has the configs {', '.join(names)}; name the one to verify" if names else "has no config"
        raise RepositoryError(f"{repo} {held}")
    return names[0]


def _description(path: Path) -> str:
    """What lies at a path that is neither, in few words."""
    from zoo_datasets.builders.sources.raw.source import is_raw

    if not path.exists():
        return "it does not exist; what is on the Hub has to be fetched first"
    if not path.is_dir():
        return f"it is a file of {path.stat().st_size:,} bytes"
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return "it is an empty folder"
    if is_raw(path):
        return "it is a raw zoo, of which `zoo build` makes a repository"
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"it is a folder that holds {', '.join(f'{each[:60]!r}' for each in names[:_SHOWN])}{more}"


def _print(console: Console, result: Verification, unit: str) -> None:
    from zoo_datasets.terminal import say
    from zoo_datasets.text import counted

    for check in result.checks:
        mark = "ok  " if check.passed else "FAIL"
        say(console, f"{mark} {check.name}: {check.detail}")
    for difference in result.differences:
        say(console, f"     {difference.check}: {difference.message}")
    verdict = "what was checked is as it says" if result.ok else counted(len(result.differences), "difference")
    unchecked = f"; not checked: {'; '.join(result.unchecked)}" if result.unchecked else ""
    say(console, f"{result.config}: {result.rows:,} {unit}, {result.recomputed:,} recomputed: {verdict}{unchecked}")

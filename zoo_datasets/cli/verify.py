"""`zoo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.progress import progress_bar
from zoo_datasets.cli.shell import stoppable
from zoo_datasets.errors import RepositoryError


@stoppable("nothing was changed")
def verify(
    repo: Annotated[Path, typer.Argument(help="A local dataset repository.")],
    name: Annotated[str, typer.Argument(help="The config to verify.")],
    images: Annotated[
        Path | None, typer.Option(help="A local folder with the images instead of the Hub.", show_default="the Hub")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Rows whose figures are recomputed.")] = 32,
    files_only: Annotated[bool, typer.Option("--files-only", help="Recompute nothing: no images needed.")] = False,
    limit_val: Annotated[
        int | None, typer.Option(min=1, help="Validation images, where an imported zoo had fewer.")
    ] = None,
    limit_test: Annotated[int | None, typer.Option(min=1, help="Test images, where an imported zoo had fewer.")] = None,
) -> None:
    """Check a config: checksums, splits, layouts, and figures recomputed from the weights alone."""
    from zoo_datasets.evaluation.verify.verify import verify_repository
    from zoo_datasets.images.prepare import load_images
    from zoo_datasets.repository.manifest import read_manifest
    from zoo_datasets.specs.spec import Limits
    from zoo_datasets.terminal import Terminal, say, working

    console = Terminal(stderr=True)
    data = None
    if not files_only and (repo / name).is_dir():
        manifest = read_manifest(repo, name)
        if manifest is None:
            raise RepositoryError(f"{repo / name} holds no manifest.json; build the config again with `zoo build`")
        with working(console, f"images: {images or manifest.zoo['images']}"):
            data = load_images(manifest.zoo["images"], manifest.architecture, images)
    with progress_bar(console, "verifying", "shards") as advance:
        limits = Limits(val=limit_val, test=limit_test)
        result = verify_repository(repo, name, images=data, limits=limits, sample=sample, progress=advance)
    for check in result.checks:
        mark = "ok  " if check.passed else "FAIL"
        say(console, f"{mark} {check.name}: {check.detail}")
    for difference in result.differences:
        say(console, f"     {difference.check}: {difference.message}")
    verdict = "all is as it says" if result.ok else f"{len(result.differences)} differences"
    say(console, f"{result.config}: {result.rows:,} rows, {result.recomputed} recomputed: {verdict}")
    if not result.ok:
        raise typer.Exit(1)

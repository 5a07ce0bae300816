"""`zoo report`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from zoo_datasets.cli.pictures import Pdf, Png, Svg, write_pictures
from zoo_datasets.cli.shell import stoppable
from zoo_datasets.errors import RepositoryError, SpecError

# What needs neither a network nor a folder.
_EMBEDDED = "digits"


class Map(enum.StrEnum):
    """How weights come into the plane."""

    pca = "pca"
    umap = "umap"


@stoppable("no page was written; a benchmark's finished results are kept")
def report(
    repo: Annotated[Path, typer.Argument(help="A local dataset repository.")],
    name: Annotated[str, typer.Argument(help="The config to report on.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    png: Png = None,
    svg: Svg = None,
    pdf: Pdf = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder with the images, for agreement and representations.")
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(help="The file of `zoo benchmark --out`.", show_default="a benchmark of statistics")
    ] = None,
    models: Annotated[int, typer.Option(min=2, help="Models on the map.")] = 1000,
    trajectories: Annotated[int, typer.Option(min=0, help="Models whose training is drawn.")] = 24,
    pairs: Annotated[int, typer.Option(min=2, help="Models that are compared in pairs.")] = 128,
    map_: Annotated[Map, typer.Option("--map", help="umap needs zoo-datasets[umap].")] = Map.pca,
) -> None:
    """One self-contained page: figures over epochs, a map, hyperparameters, trajectories, the benchmark."""
    from zoo_datasets.cli.images import recorded_images
    from zoo_datasets.evaluation.benchmark.model_record import is_of_models, read_models
    from zoo_datasets.evaluation.benchmark.record import read_record, run_benchmark
    from zoo_datasets.evaluation.benchmark.run import Settings
    from zoo_datasets.evaluation.report.content import gather
    from zoo_datasets.evaluation.report.errors import gather_errors
    from zoo_datasets.evaluation.report.fields import gather_fields, is_fields
    from zoo_datasets.evaluation.report.page import write_report
    from zoo_datasets.evaluation.report.parts import Extent
    from zoo_datasets.evaluation.report.plots import write_plots
    from zoo_datasets.images.signals import Signals
    from zoo_datasets.repository.manifest import read_manifest
    from zoo_datasets.terminal import Terminal, say, working

    manifest = read_manifest(repo, name)
    if manifest is None:
        raise RepositoryError(f"{repo / name} has no manifest.json; build the config with `zoo build`")
    console = Terminal(stderr=True)
    fields = is_fields(manifest)
    of_models = benchmark is not None and is_of_models(benchmark)
    if fields and benchmark is not None and not of_models:
        raise SpecError(f"{name} holds fields: give --benchmark a file of `zoo benchmark --models`, not of features")
    extent = Extent(models=models, trajectories=trajectories, pairs=pairs, method=map_.value)
    fingerprint = (manifest.source.get("images") or {}).get("fingerprint") if images else None
    with working(console, "images") as show:
        if fields:
            signals = None
            if images is not None and fingerprint is not None:  # of a run of our own
                architecture = str(manifest.zoo.get("architecture"))
                signals = Signals.prepared(
                    recorded_images(manifest.zoo, architecture, images, fingerprint, repo / name)
                )
            elif images is not None:
                signals = Signals(str(manifest.zoo.get("images")), images)
            content = gather_fields(repo, name, manifest, signals=signals, extent=extent, step=show)
            if benchmark is not None:
                show("what predictors got wrong")
                content |= gather_errors(repo, name, benchmark, signals, content["notes"])
        else:
            about = str(manifest.zoo.get("images"))
            data = None
            if images or about == _EMBEDDED:
                network = manifest.one_network("a report")
                data = recorded_images(manifest.zoo, network.architecture, images, fingerprint, repo / name)
            notes, record = [], None
            try:
                if benchmark is not None and not of_models:
                    record = read_record(benchmark)
                elif benchmark is None:
                    show("benchmark of statistics")
                    record = run_benchmark(repo, Settings(train=name, tests=(name,), features=("statistics",)))
            except RepositoryError as error:
                if benchmark is not None:
                    raise
                notes.append(f"No benchmark: {error}")
            content = gather(repo, name, manifest, images=data, record=record, extent=extent, step=show)
            content["notes"] += notes
            if benchmark is not None and of_models:
                content["predictors"] = read_models(repo, benchmark)[1].to_dict() | {"fits": []}
        show("page")
        write_report(content, out)
    size = out.stat().st_size / 1e6
    say(console, f"{out}: {size:,.1f} MB, one file for any browser")
    write_pictures(console, png, svg, pdf, lambda folder, form: write_plots(content, folder, form))

"""Tiny runs made by hand: random weights and figures, written through the run format itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from zoo_datasets.networks.architectures import get_architecture, layout_of
from zoo_datasets.runs.cohort import Cohort, metrics_table
from zoo_datasets.runs.manifest import Growth, ImagesRecord, RunManifest
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits, Member, members_of
from zoo_datasets.specs.spec import ZooSpec, digest_of
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.stacked.initialise import initialise
from zoo_datasets.storage.files import sha256_of

FIGURES = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")


def weights_of(member: Member, epoch: int, size: int) -> torch.Tensor:
    """float32 [size], a function of the member and epoch alone; at epoch 0 those of its seed and init."""
    if epoch == 0 and size == layout_of("cnn_s", 1, 10).size:
        layers = get_architecture("cnn_s").layers(1, 10)
        return initialise(layers, torch.tensor([member.seed]), [member.hyperparameters.init])[0]
    generator = torch.Generator().manual_seed(int(digest_of([member.model_id, epoch])[:12], 16))
    return torch.randn(size, generator=generator) * 0.1


def write_epoch(
    cohort: Cohort,
    epoch: int,
    figures: Mapping[str, torch.Tensor | None] | None = None,
    nan: Sequence[str] = (),
) -> None:
    """Write one epoch of a cohort; the weights of the members in `nan` hold a NaN."""
    layout = cohort.layout
    weights = torch.stack([weights_of(member, epoch, layout.size) for member in cohort.members])
    bad = torch.tensor([member.model_id in nan for member in cohort.members])
    weights[bad, 5] = float("nan")
    count = len(cohort.members)
    values = {name: torch.linspace(0.1, 0.9, count) + epoch / 1000 for name in FIGURES}
    cohort.write_epoch(
        epoch, layout.unflatten(weights), metrics_table(cohort.members, epoch, {**values, **(figures or {})}, bad)
    )


def make_run(
    path: Path,
    growth: Sequence[tuple[int, int]] = ((6, 2),),
    *,
    zoo: ZooSpec | None = None,
    cohort_size: int = 4,
    limits: Limits | None = None,
    fingerprint: str = "images",
    nan: Sequence[str] = (),
    trained: Mapping[int, int] | None = None,
    figures: Mapping[str, torch.Tensor | None] | None = None,
) -> Run:
    """A run of `growth` (models, epochs) steps.

    `trained` maps a cohort's number to its last finished epoch (−1: not begun); others are finished.
    """
    zoo = zoo or get_zoo("digits_cnn_s")
    limits = limits or Limits()
    images = ImagesRecord(name=zoo.images, fingerprint=fingerprint, channels=1, classes=10, train=30, val=20, test=20)
    layout = layout_of(zoo.architecture, images.channels, images.classes)
    steps = tuple(Growth(models=models, epochs=epochs) for models, epochs in growth)
    zoo = dataclasses.replace(zoo, epochs=max(zoo.epochs, steps[-1].epochs))
    run = Run(path, RunManifest(
        zoo=zoo, growth=steps, limits=limits, images=images, layout=layout, engine="torch", versions={"torch": "0"},
    ))  # fmt: skip
    run.save()
    members = members_of(zoo, limits, steps[-1].models)
    number = 0
    for step, before in zip(steps, (0, *(step.models for step in steps)), strict=False):
        for start in range(before, step.models, cohort_size):
            last = (trained or {}).get(number, steps[-1].epochs)
            if last >= 0:
                cohort = run.cohort(number)
                cohort.begin(members[start : min(start + cohort_size, step.models)])
                for epoch in range(last + 1):
                    write_epoch(cohort, epoch, figures, nan)
            number += 1
    return run


def tell_manifest(repo: Path, config: str) -> None:
    """Write sizes and digests of the files into a manifest, as a stranger would who made them otherwise."""
    file = repo / "_meta" / config / "manifest.json"
    manifest = json.loads(file.read_bytes())
    for shard in (*manifest["shards"], *manifest["meta"]):
        path = repo / shard["path"]
        shard |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    file.write_text(json.dumps(manifest))

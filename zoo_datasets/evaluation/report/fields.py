"""What a report shows of fields: the signals that their networks draw, as JSON values like those of `content`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo_datasets.errors import ImagesError, LayoutError, SpecError
from zoo_datasets.evaluation import analysis, population
from zoo_datasets.evaluation.report.maps import map_of
from zoo_datasets.evaluation.report.parts import Extent, Step, evenly, last_rows, left_out_of, weights_of
from zoo_datasets.evaluation.report.values import histogram_of, histograms_of_pairs
from zoo_datasets.evaluation.verify.fields import INDEX, PSNR, SPLIT, psnr
from zoo_datasets.images.signals import Signals
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.modules import layers_of_row
from zoo_datasets.loading.rendering import render
from zoo_datasets.networks.fields import FIELD
from zoo_datasets.networks.kind import is_field
from zoo_datasets.repository.manifest import Manifest
from zoo_datasets.symmetries import canonicalize

_SHOWN = 60  # signals of the sheet
_SIDE = 56  # pixels of a picture
_CHANNELS = (1, 3)  # of what is drawn
_NEAR = 0.5  # how far values may lie outside of 0 to 1 and be taken for pixels, in a tenth of all places
_MAP_COLUMNS = ("label", PSNR, "source_split", "images", "copy", "split")


def is_fields(manifest: Manifest) -> bool:
    """Whether the rows of a config are fields."""
    zoo = manifest.zoo
    return manifest.open is not None and (zoo.get("task") == FIELD or is_field(str(zoo.get("architecture"))))


def gather_fields(
    repo: str | Path,
    name: str,
    manifest: Manifest,
    *,
    signals: Signals | None = None,
    extent: Extent | None = None,
    step: Step = lambda _: None,
) -> dict[str, Any]:
    """The content of a report of fields.

    Args:
        signals: the images that they were fitted to, which are shown beside what they draw; None leaves these out.
        step: called with what is done next.
    """
    extent = extent or Extent()
    assert manifest.open is not None
    step("figures of all models")
    columns = [column.name for column in manifest.open.narrow]
    table = population.table_of(cast(DatasetDict, load_zoo(repo, name, columns=columns)))
    last = population.at_epoch(table)
    step("weights of the last epoch")
    epochs = sorted(set(last["epoch"].to_pylist()))
    rows = cast(DatasetDict, load_zoo(repo, name, epochs=epochs))
    final = last_rows(concatenate_datasets(list(rows.values())), last, extent.models)
    content: dict[str, Any] = {
        "name": name, "facts": _facts(manifest, table, last), "epochs": {}, "effects": [], "trajectories": None,
        "left_out": left_out_of(manifest, 0), "benchmark": None, "notes": [], "alike": [], "map": _NO_MAP,
    }  # fmt: skip
    step("signals")
    try:
        content["sheet"] = _sheet(final, signals, content["notes"])
    except (SpecError, LayoutError, ImagesError) as error:
        content["notes"].append(f"The signals were not drawn: {error}")
    if len(manifest.layouts) and len(pc.unique(last["layout"])) == 1:
        step("map")
        weights = weights_of(final)
        content["map"] = map_of(final, weights, table, extent.method, _present(final, _MAP_COLUMNS))
        step("pairs of models")
        content["alike"] += _alike(final, weights, extent.pairs)
    else:
        content["notes"].append("The networks have several layouts: there is no map, and no pair is compared.")
    if PSNR in table.column_names:
        recorded = torch.tensor([value for value in last[PSNR].to_pylist() if value is not None], dtype=torch.float64)
        if (histogram := histogram_of("PSNR in dB, as recorded", recorded)) is not None:
            content["alike"].insert(0, histogram | {"unit": "networks"})
    return content


_NO_MAP: dict[str, Any] = {"x": [], "y": [], "labels": ["", ""], "models": [], "columns": {}}


def _present(rows: Dataset, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in columns if name in rows.column_names or name == "split")


def _facts(manifest: Manifest, table: pa.Table, last: pa.Table) -> list[list[str]]:
    """Headline figures as (what, how much)."""
    models = pc.count_distinct(table["model_id"]).as_py()
    facts = [["networks", f"{models:,}"], ["states", f"{table.num_rows:,}"]]
    for what, column in (("signals of", "images"), ("architecture", "architecture")):
        if values := sorted({str(value) for value in last[column].to_pylist() if value is not None}):
            facts.append([what, ", ".join(values[:4])])
    if manifest.open is not None and manifest.open.size is not None:
        facts.append(["weights", f"{manifest.open.size:,}"])
    splits = last.group_by("split").aggregate([("model_id", "count")]).to_pylist()
    facts.append(["networks by split", ", ".join(f"{s['split']} {s['model_id_count']:,}" for s in splits)])
    box = population.box(last[PSNR]) if PSNR in last.column_names else None
    if box is not None:
        facts.append(["PSNR, median (range)", f"{box.median:.1f} dB ({box.low:.1f} to {box.high:.1f})"])
    convention = manifest.source.get("convention")
    if isinstance(convention, dict):
        facts.append(["convention", ", ".join(f"{key} {value}" for key, value in convention.items())])
    return facts


def _sheet(rows: Dataset, signals: Signals | None, notes: list[str]) -> dict[str, Any]:
    """Pictures of some signals by class.

    Raises:
        SpecError, LayoutError: if they cannot be drawn.
    """
    return {"pictures": pictures_of(rows.select(_spread(rows)), signals, notes), "of": len(rows), "side": _SIDE}


def pictures_of(rows: Dataset, signals: Signals | None, notes: list[str]) -> list[dict[str, Any]]:
    """What networks draw, each a PNG in a data URI with a caption; and its original where there is one.

    Raises:
        SpecError, LayoutError: if they cannot be drawn.
    """
    drawn = render(rows, _SIDE)
    if drawn.shape[1] not in _CHANNELS:
        raise SpecError(f"the networks give {drawn.shape[1]} numbers at a point, and pictures have 1 or 3")
    outside = ((drawn < -_NEAR) | (drawn > 1 + _NEAR)).double().mean().item()
    if outside > 0.1:
        low, high = (drawn.flatten(1).amin(1), drawn.flatten(1).amax(1))
        drawn = (drawn - low[:, None, None, None]) / (high - low).clamp(min=1e-9)[:, None, None, None]
        notes.append("Nothing tells how values become pixels: each picture is stretched from its least to its most.")
    captions = [_caption(row) for row in rows.remove_columns("weights")]
    originals, recomputed = _originals(rows, signals, notes)
    return [
        {"image": _uri(picture), "original": original, "caption": caption + more}
        for picture, original, caption, more in zip(drawn, originals, captions, recomputed, strict=True)
    ]


def _spread(rows: Dataset) -> NDArray[np.int64]:
    """Rows of all classes alike, in their order."""
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    groups: dict[Any, list[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(label, []).append(place)
    ranked = [(rank, group, place) for group, places in enumerate(groups.values()) for rank, place in enumerate(places)]
    taken = [place for _, _, place in sorted(ranked)[:_SHOWN]]
    return np.array(sorted(taken, key=lambda place: (labels[place] is None, labels[place] or 0, place)), np.int64)


def _caption(row: dict[str, Any]) -> str:
    """What a picture is of."""
    parts = [f"model {row['model_id']}"]
    parts += [f"{name.replace('_', ' ')} {row[name]}" for name in ("label", INDEX) if row.get(name) is not None]
    return ", ".join(parts + ([f"{row[PSNR]:.1f} dB"] if row.get(PSNR) is not None else []))


def _originals(rows: Dataset, signals: Signals | None, notes: list[str]) -> tuple[list[str | None], list[str]]:
    """The images that networks were fitted to, and what PSNR their own pictures have; nothing where it is not known."""
    images: list[str | None] = [None] * len(rows)
    texts = [""] * len(rows)
    if signals is None or not {"images", INDEX, SPLIT} <= {*rows.column_names}:
        return images, texts
    told = zip(rows["images"][:], rows[SPLIT][:], rows[INDEX][:], strict=True)
    places = [
        signals.place(split, index) if name == signals.spec.name and None not in (split, index) else None
        for name, split, index in told
    ]
    known = [at for at, place in enumerate(places) if place is not None]
    if not known:
        notes.append(f"None of the signals that are shown is known to be an image of {signals.spec.name}.")
        return images, texts
    pixels = signals.read([place for place in places if place is not None]).float() / 255
    drawn = render(rows.select(known), pixels.shape[-1])
    if drawn.shape != pixels.shape:
        raise SpecError(f"the networks give {drawn.shape[1]} channels, the images have {pixels.shape[1]}")
    for at, image, value in zip(known, pixels, psnr(drawn, pixels).tolist(), strict=True):
        images[at], texts[at] = _uri(image), f"; recomputed {value:.1f} dB"
    return images, texts


def _uri(picture: Tensor) -> str:
    """A picture [C, H, W] of numbers from 0 to 1 as a PNG in a data URI."""
    pixels = (picture.clamp(0, 1).nan_to_num() * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def sheet_pixels(sheet: dict[str, Any], columns: int = 12) -> NDArray[np.uint8]:
    """The pictures of a sheet side by side: uint8 [rows, columns, 3]."""
    pictures = [entry["image"].partition(",")[2] for entry in sheet["pictures"]]
    side, gap = sheet["side"], 4
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), "white")
    for place, text in enumerate(pictures):
        row, column = divmod(place, columns)
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
            whole.paste(picture, (gap + column * (side + gap), gap + row * (side + gap)))
    return np.asarray(whole)


def _alike(rows: Dataset, weights: Tensor, limit: int) -> list[dict[str, Any]]:
    """Histograms over pairs of networks."""
    drawn = torch.from_numpy(evenly(len(rows), limit))
    some = weights[drawn]
    measures = {"distance of weights": analysis.distances(some), "cosine of weights": analysis.cosines(some)}
    try:
        ordered = canonicalize(some, layers_of_row(rows[0]))
        measures["distance of weights in canonical order of channels"] = analysis.distances(ordered)
        measures["cosine of weights in canonical order of channels"] = analysis.cosines(ordered)
    except (SpecError, LayoutError):  # the convention is not known
        pass
    return histograms_of_pairs(measures)

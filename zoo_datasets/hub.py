"""The card of a dataset repository: README.md, whose YAML is what `datasets` and the Hub read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCard

from zoo_datasets.errors import RepositoryError
from zoo_datasets.files import write_bytes
from zoo_datasets.manifest import Manifest, read_manifest
from zoo_datasets.schema import features

CARD = "README.md"
YOURS = ("<!-- yours -->", "<!-- /yours -->")
LICENSE = "cc-by-4.0"
TAGS = ("model-zoo", "neural-network-weights", "weight-space-learning")

_INVITATION = "<!-- What you write between these two marks is kept when the card is written again. -->"
_YOURS_PATTERN = re.compile(re.escape(YOURS[0]) + r"(.*?)" + re.escape(YOURS[1]), re.DOTALL)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip

_CITATION = """## Citation

The recipes are those of Schürholt et al., *Model Zoos: A Dataset of Diverse Populations of Neural Network Models*:

```bibtex
@inproceedings{schurholt2022model,
  title     = {Model Zoos: A Dataset of Diverse Populations of Neural Network Models},
  author    = {Sch{\\"u}rholt, Konstantin and Taskiran, Diyar and Knyazev, Boris and Gir{\\'o}-i-Nieto, Xavier
               and Borth, Damian},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year      = {2022}
}
```
"""


def read_card(repo: Path) -> DatasetCard:
    """The card of a local repository; an empty one where there is no README.md.

    Raises:
        RepositoryError: where it cannot be read or its YAML is broken.
    """
    file = repo / CARD
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{file} could not be read: {error}") from error
    if not re.match(r"\s*---[ \t]*\r?\n", text):
        text = f"---\n{{}}\n---\n{text}"  # without a block the card class logs a warning
    try:
        card = DatasetCard(text, ignore_metadata_errors=False)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise RepositoryError(
            f"{file}: its YAML block could not be read: {' '.join(str(error).split())}; repair or delete it"
        ) from error
    for key in ("configs", "dataset_info"):
        if not all(isinstance(entry, dict) for entry in _entries(card, key)):
            raise RepositoryError(f"{file}: {key}: expected a list of mappings, found {str(card.data[key])[:80]!r}")
    return card


def configs_of(card: DatasetCard) -> dict[str, dict[str, Any]]:
    """The configs of a card's YAML by name."""
    return {str(entry.get("config_name", "default")): entry for entry in _entries(card, "configs")}


def files_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(split, path) of each file that a config of the YAML lists, in its order."""
    listed = []
    for entry in config.get("data_files") or []:
        if isinstance(entry, Mapping):
            paths = entry.get("path")
            listed += [(str(entry.get("split")), str(path)) for path in (paths if isinstance(paths, list) else [paths])]
    return listed


def info_of(card: DatasetCard, config: str) -> dict[str, Any]:
    """The `dataset_info` of a config in a card's YAML; empty where there is none."""
    for entry in _entries(card, "dataset_info"):
        if entry.get("config_name", "default") == config:
            return dict(entry)
    return {}


def write_card(repo: Path, manifest: Manifest, num_bytes: Mapping[str, int]) -> None:
    """Write README.md so that it lists this config as its manifest has it; other configs stay as they are.

    Args:
        num_bytes: size of each split in memory, as `datasets` records it.

    Raises:
        RepositoryError: where the present card cannot be read.
        StorageError: where the new one cannot be written.
    """
    card = read_card(repo)
    configs = configs_of(card)
    if len(configs) == 1 and manifest.config not in configs:
        next(iter(configs.values())).pop("default", None)  # it was the default for being alone
    # Keys of a config that a person added stay; those that are there keep their places.
    entry = {"config_name": manifest.config, "data_files": None} | configs.get(manifest.config, {})
    configs[manifest.config] = entry | {"data_files": _data_files(manifest)}
    if len(configs) == 1:
        configs[manifest.config]["default"] = True
    card.data["configs"] = [configs[name] for name in sorted(configs)]
    DatasetInfosDict({manifest.config: _info(manifest, num_bytes)}).to_dataset_card_data(card.data)
    rows = sum(split.get("num_examples", 0) for e in _entries(card, "dataset_info") for split in e.get("splits") or [])
    data: dict[str, Any] = {
        "license": card.data.get("license") or LICENSE,
        "pretty_name": card.data.get("pretty_name") or "Model zoos",
        "tags": sorted({*(card.data.get("tags") or ()), *TAGS}),
        "size_categories": [_size_category(rows)],
    }
    order = [*data, *(key for key in card.data.to_dict() if key not in data)]  # type: ignore[no-untyped-call]
    for key, value in data.items():
        card.data[key] = value
    text = _body(card.text, _manifests(repo, configs, manifest))
    write_bytes(repo / CARD, f"---\n{card.data.to_yaml(original_order=order)}\n---\n\n{text}".encode())


def _entries(card: DatasetCard, key: str) -> list[Any]:
    value = card.data.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _data_files(manifest: Manifest) -> list[dict[str, Any]]:
    """Every shard by its own name: a changed shard has another one, and no cache of `datasets` can be stale."""
    return [
        {"split": split, "path": [shard.path for shard in manifest.shards if shard.split == split]}
        for split in manifest.splits
    ]


def _info(manifest: Manifest, num_bytes: Mapping[str, int]) -> DatasetInfo:
    splits = SplitDict()
    for split, rows in manifest.splits.items():
        splits.add(SplitInfo(name=split, num_bytes=num_bytes[split], num_examples=rows))
    return DatasetInfo(
        features=features(manifest.layout, manifest.extras),
        config_name=manifest.config,
        splits=splits,
        download_size=sum(shard.bytes for shard in manifest.shards),
        dataset_size=sum(num_bytes.values()),
    )


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1T")


def _manifests(repo: Path, configs: Iterable[str], own: Manifest) -> Iterable[Manifest]:
    for config in sorted(configs):
        try:
            manifest = own if config == own.config else read_manifest(repo, config)
        except RepositoryError as error:
            # Another config's trouble must not stop this one; `zoo verify` reports it.
            logging.getLogger(__name__).warning("%s", error)
            continue
        if manifest is not None:
            yield manifest


def _body(earlier: str, manifests: Iterable[Manifest]) -> str:
    kept = _YOURS_PATTERN.search(earlier)
    # Without marks the text is not ours, so all of it was written by a person.
    yours = kept[1].strip("\n") if kept else earlier.strip() or _INVITATION
    head = (
        "# Model zoos\n\n"
        f"{YOURS[0]}\n{yours}\n{YOURS[1]}\n\n"
        "Populations of neural networks as datasets. A row is one model at one epoch: its weights as one flat vector, "
        "its hyperparameters, its losses and accuracies. A model is wholly in one split.\n"
    )
    return "\n".join([head, *(_section(manifest) for manifest in manifests), _CITATION])


def _section(manifest: Manifest) -> str:
    zoo = manifest.zoo
    lines = [f"## {manifest.config}", "", *_recipe(manifest), ""]
    lines += [
        f"{manifest.models.written:,} models, {manifest.rows():,} rows, epochs {_ranges(manifest.epochs)}; "
        f"`weights` has {manifest.layout.size:,} entries.",
        "",
        "| split | rows |",
        "|---|---|",
        *(f"| {split} | {rows:,} |" for split, rows in manifest.splits.items()),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'zoo = load_dataset("path/or/name/of/this/repository", "{manifest.config}")',
        "",
        "# a row back into a network, with pip install zoo-datasets",
        "from zoo_datasets import to_module",
        "",
        f'network = to_module(zoo["{next(iter(manifest.splits), "train")}"][0])',
        "```",
        "",
        *_left_out(manifest),
    ]
    if zoo.get("doi"):
        lines += [f"The published zoo of this recipe: https://doi.org/{zoo['doi']}", ""]
    return "\n".join(lines)


def _recipe(manifest: Manifest) -> list[str]:
    zoo = manifest.zoo
    noun = "channel" if manifest.in_channels == 1 else "channels"
    lines = [
        f"`{manifest.architecture}` ({manifest.in_channels} input {noun}, {manifest.classes} classes, "
        f"{manifest.layout.parameters:,} parameters) on {zoo.get('images', 'images that are not recorded')}."
    ]
    axes = ("activation", "init", "optimizer", "lr", "weight_decay", "dropout")
    named = [(axis, zoo[axis]) for axis in (*axes, "batch_size", "scheduler", "augmentation") if zoo.get(axis)]
    if named:
        lines += ["", "| recipe | |", "|---|---|"]
        for axis, value in named:
            lines.append(f"| {axis} | {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value} |")
    limits = manifest.source.get("limits") or {}
    limited = ", ".join(f"{limit:,} {split}" for split, limit in limits.items() if limit is not None)
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
    lines = [f"Left out (`{manifest.config}/manifest.json` names each):", ""]
    lines += ["| reason | models | states |", "|---|---|---|"]
    reasons = list(models)
    lines += [f"| {_cell(reason)} | {len(models[reason]):,} | {states[reason]:,} |" for reason in reasons[:20]]
    if len(reasons) > 20:
        lines.append(f"| {len(reasons) - 20} more reasons | | |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _ranges(numbers: list[int]) -> str:
    """`0–10, 20, 30` of ascending numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts)

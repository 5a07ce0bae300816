"""The card of a dataset repository: README.md, whose YAML is what `datasets` and the Hub read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml  # type: ignore[import-untyped,unused-ignore]
from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from zoo_datasets.documents import MAX_COUNT, MAX_YAML, brief, check_yaml, problems_of, read_text
from zoo_datasets.errors import DocumentError, OutsideError, RepositoryError
from zoo_datasets.repository.card_text import (
    YOURS,
    card_text,
    citation_of,
    citations_in,
    section_of,
    sections_of,
    yours,
)
from zoo_datasets.repository.credit import TRAINED, UNKNOWN_LICENCE, credit_of
from zoo_datasets.repository.manifest import LAYOUTS, LIGHT_ENDINGS, META, Manifest, Shard
from zoo_datasets.repository.row import LAYOUTS_SCHEMA, SPLITS
from zoo_datasets.storage.files import check_files, write_bytes
from zoo_datasets.text import printable

__all__ = ["CARD", "YOURS", "Entry", "card_with", "check_patterns", "configs_of", "entry_in", "files_of", "info_of",
           "parse_card", "read_card", "write_card", "write_section", "zoos_of"]  # fmt: skip

CARD = "README.md"
_HALF_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F]..")
# Licences that a build writes into a card: one that a person has put in their place stays.
LICENCES = (TRAINED.licence, UNKNOWN_LICENCE)
TAGS = ("model-zoo", "neural-network-weights", "weight-space-learning")

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


class _Split(TypedDict, total=False):
    name: str
    num_examples: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None


class _Info(TypedDict, total=False):
    """What is read of a `dataset_info`."""

    config_name: str
    splits: list[_Split] | None


_CONFIGS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])
_INFOS: TypeAdapter[list[_Info]] = TypeAdapter(list[_Info])
_TAGS: TypeAdapter[list[str]] = TypeAdapter(list[str])


def read_card(repo: Path) -> DatasetCard:
    """The card of a local repository; an empty one if there is no README.md.

    Raises:
        RepositoryError: if it cannot be read, lies behind a link elsewhere, or its YAML is broken.
    """
    file = repo / CARD
    check_files(repo, [CARD])
    try:
        text = read_text(file, MAX_YAML) if file.is_file() else ""
    except (OSError, DocumentError) as error:
        raise RepositoryError(f"{file} could not be read: {error}") from error
    return parse_card(text, str(file))


def parse_card(text: str, origin: str) -> DatasetCard:
    """The card that a text holds.

    Raises:
        RepositoryError: naming `origin`, where its YAML is broken.
    """
    if not re.match(r"\s*---[ \t]*\r?\n", text):
        text = f"---\n{{}}\n---\n{text}"  # without a block the card class logs a warning
    block = REGEX_YAML_BLOCK.search(text)
    try:
        check_yaml(block[2] if block else "")
        card = DatasetCard(text, ignore_metadata_errors=False)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RepositoryError(
            f"{origin}: its YAML block could not be read: {' '.join(str(error).split())}; repair or delete it"
        ) from error
    for key in ("configs", "dataset_info"):
        if not all(isinstance(entry, dict) for entry in _entries(card, key)):
            raise RepositoryError(f"{origin}: {key}: expected a list of mappings, found {brief(card.data[key])}")
    for key, adapter in (("configs", _CONFIGS), ("dataset_info", _INFOS), ("tags", _TAGS)):
        try:
            adapter.validate_python(_entries(card, key))
        except ValidationError as error:
            raise RepositoryError(f"{origin}: {problems_of(error, key)}; repair or delete it") from error
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


def check_patterns(config: Mapping[str, Any], origin: str) -> None:
    """Refuse a config of the YAML that lists files, by name or by pattern, outside of the card's folder.

    Raises:
        OutsideError: naming `origin` and the first such file.
    """
    for pattern in _texts([config.get("data_files"), config.get("data_dir")]):
        if pattern.startswith("/") or re.search(r"[\\\0:]", pattern) or ".." in pattern.split("/"):
            raise OutsideError(f"{origin} lists {pattern[:200]!a}, which lies outside of the repository")


def _texts(value: Any) -> Iterator[str]:
    """All texts of nested mappings' values and lists, but the names of splits."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(item)


def info_of(card: DatasetCard, config: str) -> dict[str, Any]:
    """The `dataset_info` of a config in a card's YAML; empty if it has none."""
    for entry in _entries(card, "dataset_info"):
        if entry.get("config_name", "default") == config:
            return dict(entry)
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a card says of one zoo.

    Attributes:
        configs, infos: the entries of the YAML by config: the zoo's own, and its light one.
        section: of the text.
        citations: what stands below all zoos for this one.
        licence: of its models; None leaves the card's as it is.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]]
    infos: Mapping[str, Mapping[str, Any]]
    section: str
    citations: Sequence[str] = ()
    licence: str | None = None


def zoos_of(configs: Iterable[str]) -> list[str]:
    """The names that are not those of light configs."""
    names = sorted(configs)
    light = {f"{name}{end}" for name in names for end in LIGHT_ENDINGS}
    return [name for name in names if name not in light]


def entry_in(card: DatasetCard, name: str) -> Entry:
    """What a card says of a zoo that it lists."""
    configs = configs_of(card)
    own = [config for end in ("", *LIGHT_ENDINGS) if (config := f"{name}{end}") in configs]
    return Entry(
        name=name,
        configs={config: configs[config] for config in own},
        infos={config: info for config in own if (info := info_of(card, config))},
        section=sections_of(card.text, [name]).get(name, f"## {name}\n"),
        citations=citations_in(card.text),
    )


def card_with(card: DatasetCard, entries: Sequence[Entry], written: str | None = None) -> str:
    """The text of README.md with these entries; the card's other zoos stay as they are.

    `written` stands between the marks; None keeps what a person wrote in the card.
    """
    configs = configs_of(card)
    infos: dict[str, Mapping[str, Any]] = {
        str(info.get("config_name", "default")): info for info in _entries(card, "dataset_info")
    }
    before = zoos_of(configs)
    for entry in entries:
        for name, config in entry.configs.items():
            # Keys of a config that a person added stay, and existing ones keep their places.
            existing = {"config_name": name, "data_files": None} | configs.get(name, {})
            configs[name] = existing | {key: value for key, value in config.items() if key != "default"}
        infos |= entry.infos
    zoos = zoos_of(configs)
    if len(before) == 1 and len(zoos) > 1:
        configs[before[0]].pop("default", None)  # it was the default for being alone
    if len(zoos) == 1:
        configs[zoos[0]]["default"] = True
    # The Hub's viewer opens on the first, where none is the default.
    ordered = sorted(configs, key=lambda name: (name in zoos, name))
    rows = sum(split.get("num_examples") or 0 for zoo in zoos for split in infos.get(zoo, {}).get("splits") or [])
    data: dict[str, Any] = {
        "license": _licence(card, entries),
        "pretty_name": card.data.get("pretty_name") or "Model zoos",
        "tags": sorted({*(card.data.get("tags") or ()), *TAGS}),
        "size_categories": [_size_category(rows)],
        "configs": [configs[name] for name in ordered],
        "dataset_info": [dict(infos[name]) for name in sorted(infos)],
    }
    kept = {key: value for key, value in card.data.to_dict().items() if key not in data}  # type: ignore[no-untyped-call]
    block = DatasetCardData(**data | kept)
    order = [*(key for key in data if key not in ("configs", "dataset_info")), *kept, "configs", "dataset_info"]
    written = yours(card.text) if written is None else written
    sections = sections_of(card.text, zoos) | {entry.name: entry.section for entry in entries}
    citations = dict.fromkeys([*citations_in(card.text), *(text for entry in entries for text in entry.citations)])
    return f"---\n{_yaml(block, order)}\n---\n\n{card_text(written, sections, list(citations))}"


def _licence(card: DatasetCard, entries: Sequence[Entry]) -> Any:
    """What the card says, with the licences of these zoos, unless a person wrote another one."""
    given = card.data.get("license")
    licences = given if isinstance(given, list) else [given] if given else []
    if any(licence not in LICENCES for licence in licences):
        return given
    together = list(dict.fromkeys([*licences, *(entry.licence for entry in entries if entry.licence)]))
    return together if len(together) > 1 else together[0] if together else TRAINED.licence


def write_card(repo: Path, manifest: Manifest, num_bytes: Mapping[str, int], meta_bytes: Mapping[str, int]) -> None:
    """Write README.md so that it lists this config as its manifest has it; other configs stay as they are.

    Args:
        num_bytes, meta_bytes: size of each split in memory, as `datasets` records it.

    Raises:
        RepositoryError: if the present card cannot be read.
        StorageError: if the new one cannot be written.
    """
    parts = {
        "": (manifest.shards, num_bytes, manifest.schema),
        META: (manifest.meta, meta_bytes, manifest.light_schema),
    }
    if manifest.open is not None:
        layouts_bytes = {shard.split: shard.bytes for shard in manifest.layouts}
        parts[LAYOUTS] = (manifest.layouts, layouts_bytes, LAYOUTS_SCHEMA)
    infos = {
        f"{manifest.config}{end}": _info(shards, sizes, Features.from_arrow_schema(schema))
        for end, (shards, sizes, schema) in parts.items()
    }
    entry = Entry(
        name=manifest.config,
        configs={f"{manifest.config}{end}": _config(shards) for end, (shards, _, _) in parts.items()},
        infos={name: {"config_name": name} | info for name, info in infos.items()},
        section=section_of(manifest),
        citations=[text] if (text := citation_of(manifest)) else [],
        licence=credit_of(manifest.source).licence,
    )
    write_bytes(repo / CARD, card_with(read_card(repo), [entry]).encode())


def write_section(repo: Path, manifest: Manifest) -> None:
    """Write README.md with the section of a zoo that it lists as its manifest has it; all else stays as it is.

    Raises:
        RepositoryError: if the present card cannot be read.
        StorageError: if the new one cannot be written.
    """
    card = read_card(repo)
    entry = dataclasses.replace(entry_in(card, manifest.config), section=section_of(manifest))
    write_bytes(repo / CARD, card_with(card, [entry]).encode())


def _yaml(block: DatasetCardData, order: list[str]) -> str:
    """The YAML of a card; in ASCII where any character of it could not be seen. Halves of surrogate pairs, which no
    reader of YAML need take, become U+FFFD."""
    text = block.to_yaml(original_order=order)
    if all(line == printable(line) for line in text.split("\n")):
        return text
    data = block.to_dict()  # type: ignore[no-untyped-call]
    return _HALF_PAIR.sub(r"\1\\uFFFD", yaml.safe_dump(data, sort_keys=False)).strip()


def _entries(card: DatasetCard, key: str) -> list[Any]:
    value = card.data.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _splits(shards: Iterable[Shard]) -> dict[str, list[Shard]]:
    """The shards of each split that has any, in the order of the splits."""
    by_split: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for shard in shards:
        by_split[shard.split].append(shard)
    return {split: held for split, held in by_split.items() if held}


def _config(shards: Iterable[Shard]) -> dict[str, Any]:
    """Every shard by its own name: a changed shard has another one, and no cache of `datasets` can be stale."""
    return {
        "data_files": [
            {"split": split, "path": [shard.path for shard in held]} for split, held in _splits(shards).items()
        ]
    }


def _info(shards: Sequence[Shard], num_bytes: Mapping[str, int], columns: Features) -> dict[str, Any]:
    splits = SplitDict()
    for split, held in _splits(shards).items():
        rows = sum(shard.rows for shard in held)
        splits.add(SplitInfo(name=split, num_bytes=num_bytes[split], num_examples=rows))
    data = DatasetCardData()
    info = DatasetInfo(
        features=columns,
        splits=splits,
        download_size=sum(shard.bytes for shard in shards),
        dataset_size=sum(num_bytes.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return dict(data["dataset_info"])


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1T")

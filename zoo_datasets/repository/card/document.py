"""The card as it is read: its YAML within bounds, and what it says of each config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from zoo_datasets.documents import MAX_COUNT, MAX_YAML, brief, parse_yaml, problems_of, read_text
from zoo_datasets.errors import DocumentError, OutsideError, RepositoryError
from zoo_datasets.repository.places import LIGHT_ENDINGS
from zoo_datasets.storage.files import check_files

CARD = "README.md"


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
    block = REGEX_YAML_BLOCK.search(text) if re.match(r"\s*---[ \t]*\r?\n", text) else None
    card = DatasetCard("---\n{}\n---\n")
    card.text = text if block is None else text[block.end() :]
    try:
        # The card's own reader of YAML takes ten times as long.
        data = parse_yaml(block[2]) if block else None
        card.data = DatasetCardData(**({} if data is None else data))
    except (ValueError, TypeError, AttributeError) as error:
        raise RepositoryError(
            f"{origin}: its YAML block could not be read: {' '.join(str(error).split())}; repair or delete it"
        ) from error
    for key in ("configs", "dataset_info"):
        if not all(isinstance(entry, dict) for entry in entries_of(card, key)):
            raise RepositoryError(f"{origin}: {key}: expected a list of mappings, found {brief(card.data[key])}")
    for key, adapter in (("configs", _CONFIGS), ("dataset_info", _INFOS), ("tags", _TAGS)):
        try:
            adapter.validate_python(entries_of(card, key))
        except ValidationError as error:
            raise RepositoryError(f"{origin}: {problems_of(error, key)}; repair or delete it") from error
    return card


def configs_of(card: DatasetCard) -> dict[str, dict[str, Any]]:
    """The configs of a card's YAML by name."""
    return {str(entry.get("config_name", "default")): entry for entry in entries_of(card, "configs")}


def check_patterns(config: Mapping[str, Any], origin: str) -> None:
    """Refuse a config of the YAML that lists files, by name or by pattern, outside of the card's folder.

    Raises:
        OutsideError: naming `origin` and the first such file.
    """
    for pattern in texts_in([config.get("data_files"), config.get("data_dir")]):
        if pattern.startswith("/") or re.search(r"[\\\0:]", pattern) or ".." in pattern.split("/"):
            raise OutsideError(f"{origin} lists {pattern[:200]!a}, which lies outside of the repository")


def texts_in(value: Any) -> Iterator[str]:
    """All texts of nested mappings' values and lists, but the names of splits."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from texts_in(item)


def info_of(card: DatasetCard, config: str) -> dict[str, Any]:
    """The `dataset_info` of a config in a card's YAML; empty if it has none."""
    for entry in entries_of(card, "dataset_info"):
        if entry.get("config_name", "default") == config:
            return dict(entry)
    return {}


def zoos_of(configs: Iterable[str]) -> list[str]:
    """The names that are not those of light configs."""
    names = sorted(configs)
    light = {f"{name}{end}" for name in names for end in LIGHT_ENDINGS}
    return [name for name in names if name not in light]


def entries_of(card: DatasetCard, key: str) -> list[Any]:
    """A list of the YAML; a single entry is one of one, and a missing one is empty."""
    value = card.data.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]

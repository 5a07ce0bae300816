"""The card of a dataset repository: README.md, whose YAML is what `datasets` and the Hub read."""

from __future__ import annotations

import contextlib
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

from zoo_datasets.documents import MAX_COUNT, MAX_YAML, brief, parse_yaml, problems_of, read_text
from zoo_datasets.errors import DocumentError, OutsideError, RepositoryError
from zoo_datasets.repository.card_text import (
    PAGE,
    SOMEWHERE,
    YOURS,
    card_text,
    citations_in,
    citations_of,
    licence_in,
    lines_of,
    page_of,
    rows_in,
    sections_of,
    table_line,
    yours,
)
from zoo_datasets.repository.credit import HUB_LICENCES, TRAINED, UNKNOWN_LICENCE
from zoo_datasets.repository.listing import (
    by_pattern,
    configs_by_name,
    configs_by_pattern,
    differing_columns,
    outdated_files,
    parts_of,
    shards_by_split,
    with_names,
)
from zoo_datasets.repository.manifest import (
    LIGHT_ENDINGS,
    MANIFEST,
    META,
    Manifest,
    Shard,
    meta_path,
    read_manifest,
    remove_beside_shards,
    with_moved_plots,
)
from zoo_datasets.storage.files import check_files, write_bytes
from zoo_datasets.storage.locks import locked_card, locked_zoo
from zoo_datasets.text import printable

__all__ = ["CARD", "LICENCE_KEYS", "YOURS", "Entry", "card_with", "card_without", "check_patterns", "configs_of",
           "entry_in", "info_of", "licence_is_computed", "listed_by_name", "move_beside_shards", "parse_card",
           "read_card", "texts_in", "write_card", "write_line", "zoos_of"]  # fmt: skip

CARD = "README.md"
_HALF_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F]..")
# Licences that earlier versions wrote into a card, alone or as a list: what a person has put in their place stays.
LICENCES = (TRAINED.licence, UNKNOWN_LICENCE)
LICENCE_KEYS = ("license", "license_name", "license_link")
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
    for entry in _entries(card, "dataset_info"):
        if entry.get("config_name", "default") == config:
            return dict(entry)
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a card says of one zoo.

    Attributes:
        configs, infos: the entries of the YAML by config: the zoo's own, and its light one. A config whose files have
            the same columns needs no info.
        line: of the table; None if an earlier version wrote a section instead.
        section: of the text, by an earlier version.
        citations: what stands below all zoos for this one.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]]
    infos: Mapping[str, Mapping[str, Any]]
    line: str | None
    section: str | None = None
    citations: Sequence[str] = ()


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
        line=lines_of(card.text).get(name),
        section=sections_of(card.text, [name]).get(name),
        citations=citations_in(card.text),
    )


def card_with(
    card: DatasetCard, entries: Sequence[Entry], written: str | None = None, location: str = SOMEWHERE
) -> str:
    """The text of README.md with these entries; the card's other zoos stay as they are.

    Args:
        written: stands between the marks; None keeps what a person wrote in the card.
        location: of the repository, for the examples.
    """
    configs = configs_of(card)
    infos: dict[str, Mapping[str, Any]] = {
        str(info.get("config_name", "default")): info for info in _entries(card, "dataset_info")
    }
    before = zoos_of(configs)
    for entry in entries:
        for name, config in entry.configs.items():
            # Keys of a config that a person added stay, and existing ones keep their places.
            existing = {"config_name": name} | configs.get(name, {})
            configs[name] = existing | {key: value for key, value in config.items() if key != "default"}
            infos.pop(name, None)
        infos |= entry.infos
    lines, sections = lines_of(card.text), sections_of(card.text, configs)
    for entry in entries:
        if entry.line is not None:
            lines[entry.name] = entry.line
            sections.pop(entry.name, None)
        elif entry.section is not None:
            sections[entry.name] = entry.section
    citations = dict.fromkeys([*citations_in(card.text), *(text for entry in entries for text in entry.citations)])
    return _rendered(card, list(citations), before, configs, infos, lines, sections, written, location)


def card_without(card: DatasetCard, name: str, location: str = SOMEWHERE) -> str:
    """The text of README.md without a zoo and its light config; the card's other zoos stay as they are."""
    configs = configs_of(card)
    before = zoos_of(configs)
    gone = (name, *(f"{name}{end}" for end in LIGHT_ENDINGS))
    infos = {
        config: info
        for info in _entries(card, "dataset_info")
        if (config := str(info.get("config_name", "default"))) not in gone
    }
    lines = {zoo: line for zoo, line in lines_of(card.text).items() if zoo != name}
    configs = {config: entry for config, entry in configs.items() if config not in gone}
    sections, citations = sections_of(card.text, configs), citations_in(card.text)
    return _rendered(card, citations, before, configs, infos, lines, sections, None, location)


def _rendered(
    card: DatasetCard,
    citations: Sequence[str],
    before: Sequence[str],
    configs: dict[str, dict[str, Any]],
    infos: Mapping[str, Mapping[str, Any]],
    lines: Mapping[str, str],
    sections: Mapping[str, str],
    written: str | None,
    location: str,
) -> str:
    """README.md of these configs; `before` are the zoos that the card listed until now."""
    zoos = zoos_of(configs)
    if len(before) == 1 and len(zoos) > 1:
        configs[before[0]].pop("default", None)  # it was the default for being alone
    if len(zoos) == 1:
        configs[zoos[0]]["default"] = True
    # The Hub's viewer opens on the first, where none is the default.
    ordered = sorted(configs, key=lambda name: (name in zoos, name))
    data: dict[str, Any] = {
        **_licence(card, lines, zoos),
        "pretty_name": card.data.get("pretty_name") or "Model zoos",
        "tags": sorted({*(card.data.get("tags") or ()), *TAGS}),
        "size_categories": [_size_category(sum(_rows(zoo, lines, infos) for zoo in zoos))],
        "configs": [configs[name] for name in ordered] or None,
        "dataset_info": [dict(infos[name]) for name in sorted(infos)] or None,
    }
    kept = {key: value for key, value in card.data.to_dict().items() if key not in (*data, *LICENCE_KEYS)}  # type: ignore[no-untyped-call]
    order = [*(key for key in data if key not in ("configs", "dataset_info")), *kept, "configs", "dataset_info"]
    merged = DatasetCardData(**data | kept).to_dict()  # type: ignore[no-untyped-call]
    written = yours(card.text) if written is None else written
    text = card_text(written, lines, sections, citations, zoos, location)
    return f"---\n{_yaml({key: merged[key] for key in order if key in merged})}\n---\n\n{text}"


def _rows(zoo: str, lines: Mapping[str, str], infos: Mapping[str, Mapping[str, Any]]) -> int:
    """The rows of a zoo, as far as a card tells."""
    if zoo in lines:
        return rows_in(lines[zoo])
    return sum(split.get("num_examples") or 0 for split in infos.get(zoo, {}).get("splits") or [])


def licence_is_computed(card: DatasetCard) -> bool:
    """Whether the licence of a card is the one that follows from its zoos, and was not chosen by a person."""
    given = {key: card.data.get(key) for key in LICENCE_KEYS if card.data.get(key) is not None}
    licence = given.get("license")
    written_before = set(licence if isinstance(licence, list) else [licence]) <= {None, *LICENCES} and len(given) <= 1
    return written_before or given == common_licence(lines_of(card.text), None)


def common_licence(lines: Mapping[str, str], unlisted: str | None) -> dict[str, str]:
    """The keys of the YAML about the licence: the one that all zoos share, or `other` with a name and a link.

    Args:
        lines: of the table, by zoo.
        unlisted: the licence of zoos that have no line; None if there are none.
    """
    licences = dict.fromkeys(licence_in(line) for line in lines.values())
    if unlisted is not None:
        licences[unlisted, ""] = None
    if not licences:
        return {"license": TRAINED.licence}
    (name, link), *others = licences
    if others:
        return {"license": "other", "license_name": "one-for-each-zoo", "license_link": CARD}
    if name in HUB_LICENCES:
        return {"license": name}
    named = re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-")[:60] or "other"
    return {"license": "other", "license_name": named, "license_link": link or CARD}


def _licence(card: DatasetCard, lines: Mapping[str, str], zoos: Sequence[str]) -> dict[str, Any]:
    """The licence that follows from the zoos, unless a person chose another one."""
    if not licence_is_computed(card):
        return {key: card.data.get(key) for key in LICENCE_KEYS if card.data.get(key) is not None}
    before = card.data.get("license")
    unlisted = [zoo for zoo in zoos if zoo not in lines]
    known_before = before if isinstance(before, str) and before in HUB_LICENCES else UNKNOWN_LICENCE
    return common_licence(lines, known_before if unlisted else None)


def write_card(repo: Path, manifest: Manifest, num_bytes: Mapping[str, int], meta_bytes: Mapping[str, int]) -> None:
    """Write a zoo's page, manifest and README.md, so that the card lists its files; other zoos stay as they are.

    Files of the zoo's folders that the manifest does not list are deleted. Until then the card lists those of the
    manifest by name, and then by pattern. The card must be locked.

    Args:
        num_bytes, meta_bytes: size of each split in memory, as `datasets` records it.

    Raises:
        RepositoryError: if the present card, or a shard, cannot be read.
        StorageError: if a file cannot be written.
    """
    sizes = {manifest.config: num_bytes, f"{manifest.config}{META}": meta_bytes}
    infos: dict[str, dict[str, Any]] = {}
    for config, (shards, schema) in parts_of(manifest).items():
        if differing_columns(repo, shards):
            columns = Features.from_arrow_schema(schema)
            infos[config] = {"config_name": config, **_info(shards, sizes[config], columns)}
    card = read_card(repo)
    _write_about(repo, manifest)
    outdated = outdated_files(repo, manifest)
    if outdated:
        _write_entry(repo, card, manifest, configs_by_name(manifest), infos)
        for file in outdated:
            file.unlink(missing_ok=True)
    _write_entry(repo, card, manifest, configs_by_pattern(manifest), infos)
    remove_beside_shards(repo, manifest.config)


def write_line(repo: Path, manifest: Manifest) -> None:
    """Write a zoo's page and its line of README.md, in which its files stay listed as they are, then the manifest.

    Raises:
        RepositoryError: if the present card cannot be read.
        StorageError: if a file cannot be written.
    """
    card = read_card(repo)
    write_bytes(repo / meta_path(manifest.config, PAGE), page_of(manifest).encode())
    _write(repo, card_with(card, [dataclasses.replace(entry_in(card, manifest.config), line=table_line(manifest))]))
    # Last: until it lists new plots they count as missing, and are drawn again.
    manifest.save(repo)


def move_beside_shards(repo: Path, config: str) -> None:
    """Put the manifest and plots of a config that an earlier version wrote beside its shards where they belong now.

    Raises:
        RepositoryError: if the zoo or the card is in use, or cannot be read.
        StorageError: if the repository cannot be written to.
    """
    if (repo / meta_path(config, MANIFEST)).is_file() or not (repo / config / MANIFEST).is_file():
        return
    with locked_zoo(repo, config), locked_card(repo):
        manifest = read_manifest(repo, config)
        if manifest is not None:
            write_line(repo, with_moved_plots(repo, manifest))
            remove_beside_shards(repo, config)


@contextlib.contextmanager
def listed_by_name(repo: Path, config: str) -> Iterator[None]:
    """Inside, files may be added to a zoo's folders: the card lists those of before by name, and not by pattern.

    Afterwards it lists them by pattern again, unless there are others now. The zoo must be locked.

    Raises:
        RepositoryError: if the card cannot be read.
        StorageError: if the card cannot be written.
    """
    by_patterns = _entries_by_pattern(repo, config)
    named = {name: with_names(repo, entry) for name, entry in by_patterns.items()}
    if not named:
        yield
        return
    _relist(repo, config, named)
    try:
        yield
    finally:
        unchanged = named == {name: with_names(repo, entry) for name, entry in by_patterns.items()}
        if unchanged and not _entries_by_pattern(repo, config):
            _relist(repo, config, by_patterns)


def _entries_by_pattern(repo: Path, config: str) -> dict[str, dict[str, Any]]:
    """The entries of a zoo and its light config, of those that list files by pattern."""
    entries = configs_of(read_card(repo))
    own = [f"{config}{end}" for end in ("", *LIGHT_ENDINGS)]
    names = [name for name in own if by_pattern(entries.get(name, {}))]
    return {name: {**entries[name]} for name in names}


def _relist(repo: Path, config: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    with locked_card(repo):
        card = read_card(repo)
        entry = entry_in(card, config)
        _write(repo, card_with(card, [dataclasses.replace(entry, configs=entries)]))


def _write_about(repo: Path, manifest: Manifest) -> None:
    write_bytes(repo / meta_path(manifest.config, PAGE), page_of(manifest).encode())
    manifest.save(repo)


def _write_entry(
    repo: Path,
    card: DatasetCard,
    manifest: Manifest,
    configs: Mapping[str, Mapping[str, Any]],
    infos: Mapping[str, Mapping[str, Any]],
) -> None:
    entry = Entry(
        name=manifest.config,
        configs=configs,
        infos=infos,
        line=table_line(manifest),
        citations=citations_of(manifest),
    )
    _write(repo, card_with(card, [entry]))


def _write(repo: Path, text: str) -> None:
    """Write README.md, unless that is its content."""
    file = repo / CARD
    if not (file.is_file() and file.read_bytes() == text.encode()):
        write_bytes(file, text.encode())


def _yaml(data: Mapping[str, Any]) -> str:
    """The YAML of a card; in ASCII if any character of it could not be seen. Halves of surrogate pairs, which no
    reader of YAML need take, become U+FFFD."""
    text = _dumped(data, allow_unicode=True)
    if all(line == printable(line) for line in text.split("\n")):
        return text
    return _HALF_PAIR.sub(r"\1\\uFFFD", _dumped(data, allow_unicode=False))


def _dumped(data: Mapping[str, Any], *, allow_unicode: bool) -> str:
    # The dumper that is not C takes ten times as long, but is the one that knows halves of surrogate pairs.
    for dumper in (getattr(yaml, "CSafeDumper", yaml.SafeDumper), yaml.SafeDumper):
        try:
            text: str = yaml.dump(dict(data), Dumper=dumper, sort_keys=False, allow_unicode=allow_unicode)
            return text.strip()
        except UnicodeEncodeError:
            continue
    return _dumped(data, allow_unicode=False)


def _entries(card: DatasetCard, key: str) -> list[Any]:
    value = card.data.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _info(shards: Sequence[Shard], num_bytes: Mapping[str, int], columns: Features) -> dict[str, Any]:
    splits = SplitDict()
    for split, held in shards_by_split(shards).items():
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

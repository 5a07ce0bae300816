"""The card as a text: what it says of each zoo, with and without some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]
from huggingface_hub import DatasetCard, DatasetCardData

from zoo_datasets.repository.card.document import configs_of, entries_of, info_of, zoos_of
from zoo_datasets.repository.card.licence import LICENCE_KEYS, licence_of
from zoo_datasets.repository.card.text import SOMEWHERE, card_text, citations_in, lines_of, rows_in, sections_of, yours
from zoo_datasets.repository.places import LIGHT_ENDINGS
from zoo_datasets.text import printable

_HALF_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F]..")
TAGS = ("model-zoo", "neural-network-weights", "weight-space-learning")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


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
        str(info.get("config_name", "default")): info for info in entries_of(card, "dataset_info")
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
        for info in entries_of(card, "dataset_info")
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
        **licence_of(card, lines, zoos),
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


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1T")

"""The licence of a card: the one that follows from its zoos, or the one that a person chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCard

from zoo_datasets.repository.card.document import CARD
from zoo_datasets.repository.card.text import licence_in, lines_of
from zoo_datasets.repository.credit import HUB_LICENCES, TRAINED, UNKNOWN_LICENCE

# Licences that earlier versions wrote into a card, alone or as a list: what a person has put in their place stays.
LICENCES = (TRAINED.licence, UNKNOWN_LICENCE)
LICENCE_KEYS = ("license", "license_name", "license_link")


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


def licence_of(card: DatasetCard, lines: Mapping[str, str], zoos: Sequence[str]) -> dict[str, Any]:
    """The licence that follows from the zoos, unless a person chose another one."""
    if not licence_is_computed(card):
        return {key: card.data.get(key) for key in LICENCE_KEYS if card.data.get(key) is not None}
    before = card.data.get("license")
    unlisted = [zoo for zoo in zoos if zoo not in lines]
    known_before = before if isinstance(before, str) and before in HUB_LICENCES else UNKNOWN_LICENCE
    return common_licence(lines, known_before if unlisted else None)

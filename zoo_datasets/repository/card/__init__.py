"""The card of a dataset repository: README.md, whose YAML is what `datasets` and the Hub read."""

from zoo_datasets.repository.card.document import (
    CARD,
    check_patterns,
    configs_of,
    info_of,
    parse_card,
    read_card,
    texts_in,
    zoos_of,
)
from zoo_datasets.repository.card.entries import Entry, card_with, card_without, entry_in
from zoo_datasets.repository.card.licence import LICENCE_KEYS, licence_is_computed
from zoo_datasets.repository.card.text import YOURS
from zoo_datasets.repository.card.writing import listed_by_name, move_beside_shards, write_card, write_line

__all__ = [
    "CARD",
    "LICENCE_KEYS",
    "YOURS",
    "Entry",
    "card_with",
    "card_without",
    "check_patterns",
    "configs_of",
    "entry_in",
    "info_of",
    "licence_is_computed",
    "listed_by_name",
    "move_beside_shards",
    "parse_card",
    "read_card",
    "texts_in",
    "write_card",
    "write_line",
    "zoos_of",
]

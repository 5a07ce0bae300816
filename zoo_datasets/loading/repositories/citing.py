"""What to cite of zoos that were loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, IterableDataset

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.row_groups import StreamFiles
from zoo_datasets.repository.card.text import bibtex_of
from zoo_datasets.repository.manifest import Manifest

_SEPARATOR = "\n\n"
# Attributes of batches and their readers that lead to what they read.
_INSIDE = ("_reader", "_parts", "zoo", "_source")


def cite(zoo: Any) -> str:
    """The BibTeX of all that zoos are of, each entry once; a line of comment for each zoo of which none is recorded.

    Args:
        zoo: what `load_zoo` returns, also after `select`, `filter` and the like; batches of it, or a list or a
            dictionary of either.

    Raises:
        SpecError: if a part of it was not loaded by `load_zoo`.
    """
    texts = list(_citations(zoo))
    if not texts or not all(texts):
        raise SpecError(
            f"cite({type(zoo).__name__}): expected what load_zoo returns, or batches of it; rows that were loaded "
            "otherwise do not tell what to cite, the page of their zoo does"
        )
    return _SEPARATOR.join(dict.fromkeys(part for text in texts for part in text.split(_SEPARATOR))) + "\n"


def citation_text(name: str, manifest: Manifest | None) -> str:
    """What is noted on a loaded zoo."""
    return _SEPARATOR.join(bibtex_of(manifest) if manifest is not None else ()) or f"% {name}: no citation is recorded"


def note_citation(loaded: Any, text: str) -> None:
    """Note on the splits of a loaded zoo what to cite."""
    for part in loaded.values() if isinstance(loaded, Mapping) else [loaded]:
        part.info.citation = text


def _citations(value: Any) -> Iterator[str]:
    if isinstance(value, (Dataset, IterableDataset)):
        yield value.info.citation
    elif isinstance(value, StreamFiles):
        yield value.citation
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _citations(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _citations(item)
    else:
        for name in _INSIDE:
            if hasattr(value, name):
                yield from _citations(getattr(value, name))

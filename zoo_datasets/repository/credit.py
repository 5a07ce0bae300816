"""Whose the models of a zoo are: what its source says, as its manifest records it and its card shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

# As the Hub calls a licence that is not stated.
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """What to cite: its authors in short, its title and its entry for BibTeX."""

    authors: str
    title: str
    bibtex: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """Whose the models of a zoo are; by default nobody knows.

    Attributes:
        origin: whether they were trained by this package, were published by others, or come from anywhere.
        authors: those who trained and published them.
        licence: as the Hub calls it, `cc-by-4.0`.
        paper: whose recipes they are of.
    """

    origin: Literal["trained", "published", "unknown"] = "unknown"
    authors: str = ""
    licence: str = UNKNOWN_LICENCE
    paper: Paper | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


MODEL_ZOOS = Paper(
    authors="Schürholt et al.",
    title="Model Zoos: A Dataset of Diverse Populations of Neural Network Models",
    bibtex="""@inproceedings{schurholt2022model,
  title     = {Model Zoos: A Dataset of Diverse Populations of Neural Network Models},
  author    = {Sch{\\"u}rholt, Konstantin and Taskiran, Diyar and Knyazev, Boris and Gir{\\'o}-i-Nieto, Xavier
               and Borth, Damian},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year      = {2022}
}""",
)
# Models that were trained here, by recipes that are in the table of zoos or are like them.
TRAINED = Credit(origin="trained", licence="cc-by-4.0", paper=MODEL_ZOOS)

CREDIT: TypeAdapter[Credit] = TypeAdapter(Credit)


def credit_of(source: Mapping[str, Any]) -> Credit:
    """What the `source` of a manifest says. Older ones say nothing: then only that of a run follows."""
    if source.get("credit") is None:
        return TRAINED if source.get("kind") == "run" else Credit()
    return CREDIT.validate_python(source["credit"])

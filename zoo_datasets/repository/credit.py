"""Whose the models of a zoo are: what its source says, as its manifest records it and its card shows it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from zoo_datasets.errors import SpecError

# As the Hub calls a licence that is not stated.
UNKNOWN_LICENCE = "unknown"
# The licences that the Hub knows by name, https://huggingface.co/docs/hub/repositories-licenses
_NAMES_OF_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1
lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
"""
HUB_LICENCES = frozenset(_NAMES_OF_LICENCES.split())
_NAMED = re.compile(r"([\w .+()-]{1,80}?)\s+(https?://[^\s<>()\[\]|`\"']+)")
_BIBTEX = re.compile(r"(?:@[a-z]+\{[^`<>#@]+\}\s*)+", re.ASCII | re.IGNORECASE)
_LONGEST_CITATION, _LONGEST_ORIGIN = 20_000, 500


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
        origin: whether they were trained by this package, were published by others, come from where who built the zoo
            states, or from anywhere.
        authors: those who trained and published them.
        licence: as the Hub calls it, `cc-by-4.0`, or the name of another one.
        licence_link: address of a licence that the Hub does not know.
        paper: whose recipes they are of.
        citation: BibTeX, stated by who built the zoo.
        place: where the models come from, stated likewise.
        stated: which of licence, citation and origin were stated.
    """

    origin: Literal["trained", "published", "stated", "unknown"] = "unknown"
    authors: str = ""
    licence: str = UNKNOWN_LICENCE
    licence_link: str = ""
    paper: Paper | None = None
    citation: str = ""
    place: str = ""
    stated: tuple[str, ...] = ()

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Statements:
    """What who builds a zoo states of it; None leaves what its source says, or an earlier build stated.

    Attributes:
        licence: a name of the Hub's, or any name followed by an address.
        citation: BibTeX.
        origin: where the models come from.

    Raises:
        SpecError: if one of them cannot be shown on a card.
    """

    licence: str | None = None
    citation: str | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None:
            _licence_and_link(self.licence)
        if self.citation is not None and (
            len(self.citation) > _LONGEST_CITATION or not _BIBTEX.fullmatch(self.citation.strip())
        ):
            raise SpecError(
                f"citation {self.citation[:60]!r}: expected BibTeX as @article{{key, …}}, without any of ` < > # in it"
            )
        if self.origin is not None and not (self.origin.strip() and len(self.origin) <= _LONGEST_ORIGIN):
            raise SpecError(f"origin {self.origin[:60]!r}: expected 1 to {_LONGEST_ORIGIN} characters")

    def applied(self, credit: Credit, earlier: Credit | None = None) -> Credit:
        """The credit of a source with these statements; those of an earlier build stay, unless given anew."""
        changes: dict[str, Any] = {}
        stated = earlier.stated if earlier is not None else ()
        if self.licence is not None:
            changes["licence"], changes["licence_link"] = _licence_and_link(self.licence)
        elif earlier is not None and "licence" in stated:
            changes |= {"licence": earlier.licence, "licence_link": earlier.licence_link}
        if self.citation is not None:
            changes["citation"] = self.citation.strip()
        elif earlier is not None and "citation" in stated:
            changes["citation"] = earlier.citation
        if self.origin is not None:
            changes["place"] = " ".join(self.origin.split())
        elif earlier is not None and "origin" in stated:
            changes["place"] = earlier.place
        if "place" in changes and credit.origin == "unknown":
            changes["origin"] = "stated"
        names = {"licence": "licence", "citation": "citation", "place": "origin"}
        return dataclasses.replace(
            credit,
            **changes,
            stated=tuple(name for key, name in names.items() if key in changes or name in credit.stated),
        )


def _licence_and_link(text: str) -> tuple[str, str]:
    """The name of a licence, and its address unless the Hub knows the name."""
    if text.lower() in HUB_LICENCES:
        return text.lower(), ""
    match = _NAMED.fullmatch(text.strip())
    if match:
        return match[1], match[2]
    near = difflib.get_close_matches(text.lower(), HUB_LICENCES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SpecError(
        f"license {text[:80]!r} is none that the Hub knows; {hint}Another one needs its address: 'My licence https://…'"
    )


def credit_of(source: Mapping[str, Any]) -> Credit:
    """What the `source` of a manifest says. Older ones say nothing: then only that of a run follows."""
    if source.get("credit") is None:
        return TRAINED if source.get("kind") == "run" else Credit()
    return CREDIT.validate_python(source["credit"])

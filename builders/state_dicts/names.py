"""What the names of files say of their states: by a pattern, or by a guess where none is given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from zoo_datasets.documents import MAX_DIGITS
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.row import COLUMNS

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".npy")
INDEX = ".index.json"
_INDICES = tuple(f"{ending}{INDEX}" for ending in ENDINGS)
EPOCH, STEP, MODEL_ID = "epoch", "step", "model_id"
# What training loops save beside weights.
_BESIDE = re.compile(r"(?:optimizer|scheduler|scaler|training_args|trainer_state|rng_state(?:_\d+)?)\.(?:pt|pth|bin)")
_RESOURCE_FORK = re.compile(r"(?:^|/)(?:\._[^/]*|__MACOSX/.*)$")

_FIELD = re.compile(r"\{([^{}]*)\}|(\*)")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_FIELDS = 12
_WHOLE = rf"\d{{1,{MAX_DIGITS}}}"
_NUMBER = r"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?"
_NUMERIC = {
    EPOCH: _WHOLE, STEP: _WHOLE, MODEL_ID: r".+",
    **{column.name: rf"[-+]?{_WHOLE}" for column in COLUMNS if column.type in (pa.int64(), pa.int32())},
    **{column.name: _NUMBER for column in COLUMNS if column.type in (pa.float64(), pa.float32())},
}  # fmt: skip

_EDGE = r"(?:^|(?<=[/_. =-]))"
_END = r"(?=$|[/_. -])"
_TOKENS = {
    EPOCH: re.compile(rf"{_EDGE}(?:epochs?|ep|e)[-_= ]?(?P<number>{_WHOLE}){_END}", re.IGNORECASE),
    STEP: re.compile(
        rf"{_EDGE}(?:global_step|steps?|iteration|iter|it|checkpoint|ckpt)[-_= ]?(?P<number>{_WHOLE}){_END}",
        re.IGNORECASE,
    ),
}
_SEPARATORS = "/_-. ="


def is_state_file(path: str) -> bool:
    """Whether a file's name is that of tensors, and not of what training loops save beside weights."""
    if not path.endswith(ENDINGS[0]):
        lower = path.lower()
        if not lower.endswith((*ENDINGS, *_INDICES)) or _BESIDE.fullmatch(lower.rsplit("/", 1)[-1]):
            return False
    return not (("._" in path or "__MACOSX/" in path) and _RESOURCE_FORK.search(path))


def is_unicode(name: str) -> bool:
    """Whether a name can be written as UTF-8, as those of files need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_ending(path: str) -> str:
    """A path without the ending of a file of tensors."""
    stem, _, ending = path.rpartition(".")
    return stem if f".{ending.lower()}" in ENDINGS else path


def common_folder(paths: Sequence[str]) -> str:
    """The folder in which all files lie, with a slash at its end; empty where there is none."""
    if not paths:
        return ""
    shared = [path.split("/")[:-1] for path in (min(paths), max(paths))]
    depth = 0
    while depth < min(map(len, shared)) and shared[0][depth] == shared[1][depth]:
        depth += 1
    return "".join(f"{part}/" for part in shared[0][:depth])


class Names(Protocol):
    """What the names of files say."""

    @property
    def text(self) -> str:
        """The pattern."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns."""

    def values(self, path: str) -> Mapping[str, str] | None:
        """The text of each field in a path; None where it is of another form."""


class Pattern:
    """A pattern of a user, as `{model_id}/epoch_{epoch}.safetensors`; `*` stands for anything within a folder.

    It is compared with the whole path, with its ending where the pattern has one.

    Raises:
        SourceError: if it cannot be understood.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        fields = [match[1] for match in _FIELD.finditer(text) if match[2] is None]
        for field in fields:
            if not _FIELD_NAME.fullmatch(field):
                raise SourceError(
                    f"--pattern: {{{field[:40]}}} is no name of a column; expected small letters, digits and '_'"
                )
        if len(set(fields)) != len(fields) or not 0 < len(fields) <= _MOST_FIELDS:
            raise SourceError(
                f"--pattern {text[:200]!r}: expected 1 to {_MOST_FIELDS} different fields, as in "
                "{model_id}/epoch_{epoch}.safetensors"
            )
        self.fields = tuple(fields)
        self._with_ending = text.lower().endswith(ENDINGS)
        self._regex = re.compile(_regex(text), re.DOTALL)

    def values(self, path: str) -> Mapping[str, str] | None:
        """See `Names.values`; the model's id is made of the other fields where the pattern has none."""
        match = self._regex.fullmatch(path if self._with_ending else without_ending(path))
        if match is None:
            return None
        values = match.groupdict()
        if MODEL_ID not in values:
            own = {name: value for name, value in values.items() if name not in (EPOCH, STEP)}
            return values | ({MODEL_ID: ",".join(f"{name}={value}" for name, value in own.items())} if own else {})
        return values


def _regex(text: str) -> str:
    parts = []
    position = 0
    for match in _FIELD.finditer(text):
        parts.append(re.escape(text[position : match.start()]))
        parts.append("[^/]*" if match[2] else f"(?P<{match[1]}>{_NUMERIC.get(match[1], '[^/]+')})")
        position = match.end()
    return "".join((*parts, re.escape(text[position:])))


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What names without a pattern are taken to say.

    Attributes:
        folder: of all files, which says nothing.
        numbers: the fields whose numbers stand in the names behind a word.
        ignored: the ends of names that all files of a number have.
        last: the field that the last part of a path is; empty where it is part of the model's id.
        constant: whether all files have one name, so that the folder's says which model it is.
    """

    text: str
    folder: str
    numbers: tuple[str, ...] = ()
    ignored: str = ""
    last: str = ""
    constant: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the names fill."""
        return (MODEL_ID, *self.numbers, *([self.last] if self.last else ()))

    def values(self, path: str) -> Mapping[str, str] | None:
        """See `Names.values`."""
        rest = without_ending(path.removeprefix(self.folder))
        values: dict[str, str] = {}
        for field in self.numbers:
            match = _last(_TOKENS[field], rest)
            if match is None:
                return None
            values[field] = match["number"]
            rest = _joined(rest[: match.start()], rest[match.end() :].removesuffix(self.ignored))
        if self.last:
            rest, _, values[self.last] = rest.rpartition("/")
        if self.constant:
            rest = rest.rpartition("/")[0]
        rest = rest or self.folder.rstrip("/").rpartition("/")[2]
        return values | ({MODEL_ID: rest} if rest else {})


def values_of(names: Names, paths: Sequence[str]) -> list[Mapping[str, str] | None]:
    """What each of the paths says that names were guessed from, or a pattern is for; see `Names.values`."""
    if not isinstance(names, Guess) or names.numbers or names.last or names.constant:
        return list(map(names.values, paths))
    start = len(names.folder)
    rests = [without_ending(path)[start:] for path in paths]
    return [{MODEL_ID: rest} if rest else names.values(path) for path, rest in zip(paths, rests, strict=True)]


def guess(paths: Sequence[str]) -> Guess:
    """The likeliest meaning of the names of some files.

    Numbers behind `epoch` or `step` (and what else these are called) are taken, if half of the files have them; else
    whole numbers that come again in each folder are epochs. What is left is the model's id.
    """
    folder = common_folder(paths)
    rests = [without_ending(path.removeprefix(folder)) for path in paths]
    numbers = tuple(field for field, token in _TOKENS.items() if 2 * _matching(token, rests) >= len(rests))
    ending = next((end for end in ENDINGS if paths and paths[0].lower().endswith(end)), "")
    if numbers:
        tails = {rest[match.end() :] for rest in rests if (match := _last(_TOKENS[numbers[-1]], rest)) is not None}
        return Guess(
            text=_example(rests, numbers) + ending,
            folder=folder,
            numbers=numbers,
            ignored=tails.pop() if len(tails) == 1 else "",
        )
    split = [rest.rpartition("/") for rest in rests]
    if _epochs_of_folders(split):
        return Guess(text=f"{{model_id}}/{{epoch}}{ending}", folder=folder, last=EPOCH)
    if len(rests) > 1 and len({name for _, _, name in split}) == 1 and all(parent for parent, _, _ in split):
        return Guess(text=f"{{model_id}}/{split[0][2]}{ending}", folder=folder, constant=True)
    return Guess(text=f"{{model_id}}{ending}", folder=folder)


def _matching(token: re.Pattern[str], texts: Sequence[str]) -> int:
    """How many texts a token is found in."""
    joined = "/".join(texts)  # which is an edge of tokens, as the ends of a text are
    if "\n" not in joined and token.search(joined) is None:
        return 0
    return sum(token.search(text) is not None for text in texts)


def _last(token: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(reversed(list(token.finditer(text)))), None)


def _joined(before: str, after: str) -> str:
    """What stands around a number, without the separators that it leaves behind."""
    before, after = before.rstrip(_SEPARATORS), after.lstrip(_SEPARATORS)
    return f"{before}/{after}" if before and after else before or after


def _example(rests: Sequence[str], numbers: Sequence[str]) -> str:
    """The first name with the names of fields in the place of what they take from it."""
    rest = next(rest for rest in rests if all(_last(_TOKENS[field], rest) for field in numbers) or rest == rests[-1])
    spans = []
    for field in numbers:
        if match := _last(_TOKENS[field], rest):
            spans.append((match.start(), match.end(), f"{match[0][: -len(match['number'])]}{{{field}}}"))
    spans.sort()
    before = rest[: spans[0][0]] if spans else ""
    model = "{model_id}" + before[len(before.rstrip(_SEPARATORS)) :] if before.rstrip(_SEPARATORS) else before
    text, position = model, spans[0][0] if spans else 0
    for start, stop, field_text in spans:
        text += rest[position:start] + field_text
        position = stop
    return text + rest[position:]


def _epochs_of_folders(split: Sequence[tuple[str, str, str]]) -> bool:
    """Whether several folders hold files of the same whole numbers, each at least two."""
    by_folder: dict[str, set[str]] = {}
    for parent, _, name in split:
        if not parent or not re.fullmatch(_WHOLE, name):
            return False
        by_folder.setdefault(parent, set()).add(name)
    usual = Counter(frozenset(names) for names in by_folder.values()).most_common(1)
    return bool(usual) and usual[0][1] >= 2 and 2 * usual[0][1] > len(by_folder) and len(usual[0][0]) >= 2

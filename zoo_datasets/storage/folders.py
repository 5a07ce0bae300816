"""Which paths can be used: those that JSON, Parquet and the libraries which read them again take as they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo_datasets.errors import StorageError

# What `datasets` and fsspec take for something else than a name: patterns, addresses in addresses, variables.
_MEANING = (
    (re.compile(r"[*?\[]"), "is read as a pattern of several names"),
    (re.compile(r"::"), "is read as an address within an address"),
    (re.compile(r"\$(\w+|\{[^}]*\})"), "is read as a variable of the environment"),
)


def check_text(path: str | Path) -> None:
    """Refuse a path that is no text.

    Raises:
        StorageError: if its bytes are not UTF-8, so that no file could name it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise StorageError(
            f"{shown}: the path has bytes that are not UTF-8; rename the folder or file, or choose another"
        ) from error


def check_output(path: Path) -> None:
    """Refuse a path to write to that is no text, or lies in a folder that is none; see `check_text`."""
    check_text(Path(os.path.abspath(path)))  # noqa: PTH100  # a link may lead elsewhere


def check_repository_folder(repo: Path) -> None:
    """Refuse a folder for a dataset repository that `datasets.load_dataset` would not find under its name.

    Raises:
        StorageError: if a part of the path is in the way; says which one. See also `check_text`.
    """
    folder = repo.resolve()  # `datasets` is given this one
    check_text(folder)
    for expression, meaning in _MEANING:
        if (match := expression.search(str(folder))) is not None:
            raise StorageError(
                f"{folder}: {match[0]!r} in the path of a dataset repository {meaning} when `datasets` loads it; "
                "rename the folder, or choose another"
            )

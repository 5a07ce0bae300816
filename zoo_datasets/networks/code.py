"""Code of a user's own that makes networks: imported only if the user allowed its package by name.

A file names it as `my_package.models:make_model`. Names come from YAML files, runs, manifests and rows, which anybody
may have written, so that a name alone imports nothing: the package must have been allowed in this process, by
`allow_code` or the option `--allow-code` of the command.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from zoo_datasets.documents import brief
from zoo_datasets.errors import SpecError
from zoo_datasets.specs.bounds import is_factory
from zoo_datasets.text import one_line

_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ALLOWED: Final[set[str]] = set()
_IMPORTING = threading.RLock()


def allow_code(*packages: str) -> None:
    """Let this process import these packages where a zoo's architecture is a function of them.

    Only do so for code that you would run yourself: to import it is to run it. A package of the working directory
    counts too.

    Args:
        packages: top-level packages or modules, `my_package`.

    Raises:
        SpecError: if one is no name of a top-level package.
    """
    for package in packages:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            raise SpecError(f"--allow-code: expected the name of a package, as my_package, found {brief(package)}")
    _ALLOWED.update(packages)


def allowed_code() -> tuple[str, ...]:
    """The packages that this process may import, in order: what other processes of a training are told."""
    return tuple(sorted(_ALLOWED))


def is_allowed(name: str) -> bool:
    """Whether the package of a function of that name was allowed in this process."""
    return name.partition(":")[0].split(".")[0] in _ALLOWED


def load_factory(name: str) -> Callable[..., Any]:
    """The callable of that name, whose package is imported if it was allowed.

    Raises:
        SpecError: if the name is none, the package was not allowed or is not there, or it has no such callable of its
            own.
    """
    if not is_factory(name):
        raise SpecError(f"{brief(name)} names no code; expected my_package.models:make_model")
    module_name, _, attribute = name.partition(":")
    package = module_name.split(".")[0]
    if not is_allowed(name):
        raise SpecError(
            f"this network is made by code, {name}, which is not run unless you allow it: if you trust that package, "
            f"pass --allow-code {package}, in Python zoo_datasets.allow_code({package!r})"
        )
    with _IMPORTING, working_directory():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise SpecError(
                f"{module_name} could not be imported: {brief(str(error))}; install its package, or run this in the "
                "folder in which it lies"
            ) from error
        except Exception as error:
            raise SpecError(
                f"{module_name} raised {type(error).__name__} when imported: {one_line(error)[:200]}"
            ) from error
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        problem = "has no" if factory is None else f"has, in place of a function, a {type(factory).__name__} named"
        raise SpecError(f"{module_name} {problem} {attribute}; expected a function (in_channels, classes) to a module")
    origin = str(getattr(factory, "__module__", None) or module_name)
    if module.__name__ != module_name or origin.split(".")[0] != package:
        raise SpecError(f"{name} is of {brief(origin)}; expected a function of the package {package} itself")
    return factory


@contextmanager
def working_directory() -> Iterator[None]:
    """Look for packages in the working directory too, after all other places."""
    folder = str(Path.cwd())
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(folder)

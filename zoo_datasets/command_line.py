"""What every command shares: errors on one line, warnings on one line, exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from zoo_datasets.errors import ZooError


def run_app(app: typer.Typer) -> NoReturn:
    """Run a typer app; a `ZooError` is printed on one line without a traceback and exits 1."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ZooError as error:
        _print("error", str(error))
    except KeyboardInterrupt:
        _print("stopped", "interrupted; what was written is whole, and the same command goes on")
        raise SystemExit(130) from None
    raise SystemExit(1)


def run_command(command: Callable[..., None]) -> NoReturn:
    """Run one function as a program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Of other packages' warnings only those meant for end users are shown.
    if issubclass(category, UserWarning):
        _print("warning", str(message))


def _print(kind: str, text: str) -> None:
    sys.stderr.write(f"{kind}: {' '.join(text.split())}\n")

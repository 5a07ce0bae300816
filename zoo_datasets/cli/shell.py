"""What every command shares: errors on one line, warnings on one line, exit codes."""

from __future__ import annotations

import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from zoo_datasets.documents import whole_number
from zoo_datasets.errors import ZooError
from zoo_datasets.specs.bounds import MAX_EPOCH
from zoo_datasets.storage.folders import check_text
from zoo_datasets.text import one_line

P = ParamSpec("P")
_INTERRUPTED = 130  # as shells have it: 128 + SIGINT


def stoppable(message: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make a command say `message` on Ctrl-C and exit 130."""

    def decorate(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt:
                _print("stopped", message)
                raise typer.Exit(_INTERRUPTED) from None

        return run

    return decorate


AllowCode = Annotated[
    list[str] | None,
    typer.Option(metavar="PACKAGE", help="Import this package of yours where a zoo's networks are its code."),
]


def allow(packages: Sequence[str] | None) -> None:
    """Let this process import packages, those of `--allow-code`."""
    if packages:
        from zoo_datasets.networks.code import allow_code

        allow_code(*packages)


def make_app(**options: Any) -> typer.Typer:
    """An app of typer; its help shows text as it is: brackets are no markup."""
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, **options)


def run_app(app: typer.Typer) -> NoReturn:
    """Run an app; a `ZooError` is printed on one line without a traceback and exits 1."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter is a reason to stop, whatever the locale
    try:
        for argument in sys.argv[1:]:
            check_text(argument)
        app()
    except ZooError as error:
        _print("error", str(error))
    except UnicodeEncodeError as error:  # half a surrogate pair: how Python holds a byte of a path that is not UTF-8
        _print("error", f"{error.object[:500]} is not valid UTF-8, which Parquet and safetensors need; rename it")
    raise SystemExit(1)


def hide_library_bars(*, uploads: bool = False) -> None:
    """Keep `datasets` and `huggingface_hub` from drawing bars of parts of a command's work, which end anywhere.

    A user who sets one of the variables to 0 sees them. Call it before either is imported.

    Args:
        uploads: whether the Hub's bars are shown on a terminal, as those of a push.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not (uploads and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def run_command(command: Callable[..., None]) -> NoReturn:
    """Run one function as a program."""
    hide_library_bars()
    app = make_app(add_completion=False)
    app.command()(command)
    run_app(app)


def zoo_names(incomplete: str) -> list[str]:
    """Names of published zoos and their twins that begin so, for completion in a shell."""
    from zoo_datasets.specs.zoos import list_zoos, twins_of

    names = (spec.name for zoo in list_zoos() for spec in (zoo, *twins_of(zoo)))
    return [name for name in names if name.startswith(incomplete)]


def zoos_and_files(incomplete: str) -> list[str]:
    """As `zoo_names` of dense zoos, and the YAML files and folders that begin so."""
    from zoo_datasets.specs.zoos import list_zoos

    names = [zoo.name for zoo in list_zoos() if zoo.name.startswith(incomplete)]
    paths = Path(incomplete).parent.glob("*") if incomplete else Path().glob("*")
    texts = [f"{path}/" if path.is_dir() else str(path) for path in sorted(paths)]
    return names + [text for text in texts if text.startswith(incomplete) and text.endswith(("/", ".yaml", ".yml"))]


def numbers(text: str, option: str = "--epochs") -> list[int]:
    """`0,10,50` and `0-10,50`, as `--epochs` takes them; ascending, each once."""
    spans = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = whole_number(low), whole_number(high if dash else low)
        if first is None or last is None or last > MAX_EPOCH:
            raise typer.BadParameter(
                f"{text[:80]!r}: expected numbers as 0,10,50 or ranges as 0-10, at most {MAX_EPOCH:,}",
                param_hint=option,
            )
        spans.append((first, last))
    epochs: list[int] = []
    for first, last in sorted(spans):
        epochs += range(max(first, epochs[-1] + 1 if epochs else 0), last + 1)
    return epochs


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Of other packages' warnings only those meant for end users are shown.
    if issubclass(category, UserWarning):
        _print("warning", str(message))


def _print(kind: str, text: str) -> None:
    sys.stderr.write(f"{kind}: {one_line(text)}\n")


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """`90s`, `3m`, `1.5h`, or a number of seconds, as an option says it."""
    unit = _SECONDS.get(text[-1:], 1.0)
    try:
        seconds = float(text.removesuffix(text[-1:]) if text[-1:] in _SECONDS else text) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise typer.BadParameter(f"{text!r} found, expected a time as 90s, 3m or 1.5h")
    return seconds

"""Options of `zoo build`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class OtherLayoutChoice(enum.StrEnum):
    """What becomes of files whose tensors are not those of most."""

    ragged = "ragged"
    leave_out = "leave-out"
    fail = "fail"


class CastChoice(enum.StrEnum):
    """What tensors become that float32 cannot hold."""

    float32 = "float32"


class OnBadChoice(enum.StrEnum):
    """What a bad state does to a build."""

    leave_out = "leave-out"
    fail = "fail"


Source = Annotated[
    list[str],
    typer.Argument(
        help="A run made by `zoo train`; a raw zoo: its folder, a .zip or .tar of it, or a URL of either; "
        "the name of a published zoo; with --name state dicts (.safetensors, .pt, .npz and the like) in a folder, "
        ".zip, .tar, URL or hf:org/name@revision. Several are parts of one raw zoo."
    ),
]
Out = Annotated[Path, typer.Option(help="The dataset repository, new or existing.")]
Name = Annotated[str | None, typer.Option(help="The config's name.", show_default="the zoo's name")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace a config built from another source.")]
KeepNonfinite = Annotated[
    bool, typer.Option("--keep-nonfinite", help="Keep states whose weights are not finite as rows.")
]
OnBad = Annotated[OnBadChoice, typer.Option(help="Leave bad states out and list them, or fail at the first.")]
Strict = Annotated[bool, typer.Option("--strict", help="Whatever would be noted about the source is an error.")]
LimitTrain = Annotated[int | None, typer.Option(min=1, help="Raw zoos: images they were trained on.")]
LimitVal = Annotated[int | None, typer.Option(min=1, help="Raw zoos: validation images of their figures.")]
LimitTest = Annotated[int | None, typer.Option(min=1, help="Raw zoos: test images of their figures.")]
Parents = Annotated[
    str | None,
    typer.Option(help="Raw twins: the parents' raw zoo.", show_default="beside the source, if it exists"),
]
KeepLogSigma2 = Annotated[
    bool, typer.Option("--keep-log-sigma2", help="Raw twins: log σ², means and recorded losses as columns too.")
]
Images = Annotated[Path | None, typer.Option(help="Raw twins: a folder with the images, to recompute cross-entropy.")]
Table = Annotated[
    Path | None,
    typer.Option(
        help="State dicts: CSV, TSV, JSON lines or Parquet with a row for each file, by `file` or what names say."
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        metavar="'{model_id}/epoch_{epoch}.pt'",
        help="State dicts: what names of files say: model_id, epoch, step, any column; * is anything.",
        show_default="a guess, which is printed",
    ),
]
ColumnsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="adapter_config.json",
        help="State dicts: a JSON file beside each file of tensors, whose values are columns.",
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="State dicts: column of the table with the authors' own split."),
]
ParentColumn = Annotated[
    str | None,
    typer.Option(help="State dicts: column of the table with the id of a model's parent."),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="State dicts: column of the table; models of one value lie in one split."),
]
Task = Annotated[
    str | None,
    typer.Option(help="State dicts: of all models: classification, field, regression, language, adapter."),
]
OnOtherLayout = Annotated[
    OtherLayoutChoice,
    typer.Option(
        help="State dicts: rows of several layouts, leave out files of all layouts but the usual one, or fail."
    ),
]
OnMissing = Annotated[
    OnBadChoice,
    typer.Option(help="State dicts: leave rows of the table out whose files are not there, or fail."),
]
Cast = Annotated[
    CastChoice | None,
    typer.Option(help="State dicts: convert float64 tensors, and large ones of whole numbers, to float32."),
]
Layout = Annotated[
    Path | None,
    typer.Option(help="State dicts: JSON with names and shapes of the tensors in each row of .npy files."),
]
Splits = Annotated[
    Path | None,
    typer.Option(help="The authors' split of each model or file, by index, path or id: CSV, or JSON."),
]
Plots = Annotated[bool, typer.Option("--plots", help="Draw the card's plots now; else `zoo push` draws them.")]
License = Annotated[
    str | None,
    typer.Option("--license", metavar="NAME", help="Of the models, as the Hub names it; or 'NAME https://…'."),
]
Citation = Annotated[str | None, typer.Option(metavar="BIBTEX", help="What to cite; or a file with it.")]
Origin = Annotated[str | None, typer.Option(metavar="TEXT", help="Where the models come from.")]
NumProc = Annotated[
    int, typer.Option(min=1, metavar="N", help="Shards read and written at a time; the result is the same.")
]

"""Options that several commands have: which rows are meant."""

from __future__ import annotations

from typing import Annotated

import typer

Epochs = Annotated[str | None, typer.Option(metavar="0,10,50", help="Only these epochs.")]
Models = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N models, spread.")]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="""Only rows as 'activation == "relu" and lr < 0.01'.""")
]

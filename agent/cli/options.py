"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Lab = Annotated[
    str | None,
    typer.Option("--lab", metavar="DIR", help="The lab's folder.", envvar="LABCTL_LAB"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why, for the generation's record.")]

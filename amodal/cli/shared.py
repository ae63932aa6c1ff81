"""What verbs share: arguments of one meaning, options that only a page knows, and printing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Run = Annotated[
    Positional[Path], arg(metavar="RUN", help="the folder that `amodal pretrain --out` made")
]
Data = Annotated[
    str,
    arg(
        metavar="DIR",
        help="a folder, a table file, an address (s3://…), or a set: globe, digits, or of `amodal data`",
    ),
]
Where = Annotated[
    tuple[str, ...], arg(metavar="NAME=VALUE", help="only records whose label has this value")
]

METHOD_OPTIONS: dict[str, object] = {}
"""`--method.NAME VALUE` of this command line."""
CURATE_OPTIONS: dict[str, object] = {}
"""`--curate.NAME VALUE` of this command line."""


def show(thing) -> None:
    """Print a table or a text."""
    from amodal.console import stdout

    stdout().print(thing)

"""Arguments that verbs share, options of methods, and printing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Run = Annotated[
    Positional[Path],
    arg(
        metavar="RUN",
        help="the run folder, as written by `amodal pretrain --out`",
    ),
]
Runs = Annotated[
    Positional[tuple[Path, ...]],
    arg(
        metavar="RUN",
        help="the run folder; more than one for runs of one configuration with different seeds",
    ),
]
DATA_HELP = "a folder, table file, address (s3://…) or data set (`amodal data` lists them)"
Data = Annotated[str, arg(metavar="DIR", help=DATA_HELP)]
Where = Annotated[
    tuple[str, ...], arg(metavar="NAME=VALUE", help="only records whose label has this value")
]

METHOD_OPTIONS: dict[str, object] = {}
"""The options `--method.NAME VALUE` of this command line."""
CURATE_OPTIONS: dict[str, object] = {}
"""The options `--curate.NAME VALUE` of this command line."""
PROTOCOL_OPTIONS: dict[str, str] = {}
"""The options `--protocol.NAME VALUE` of this command line."""


def command(*words: object) -> str:
    """`amodal WORDS` as it can be pasted into a shell: names with spaces are quoted."""
    return shlex.join(["amodal", *map(str, words)])


def command_after_training(out: object, data: object) -> str:
    """What measures a run that was just trained: `diagnose` on data of one field without a label,
    on which `evaluate` measures nothing."""
    from amodal.data import open as open_data
    from amodal.train.run_dir import read_config

    fields = read_config(Path(str(out)) / "config.json")["encoder"]["args"]["fields"]
    nothing = len(fields) == 1 and not open_data(str(data)).labels
    return command("diagnose" if nothing else "evaluate", out, "--data", data)


def show(renderable: object) -> None:
    """Print a rich renderable or a text."""
    from amodal.console import stdout

    stdout().print(renderable)

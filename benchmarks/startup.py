"""How long people wait before anything happens: importing, `--help`, and the verbs that only print.

Each measurement is a fresh process, from its start to its end, with its files in the page cache and
bytecode compiled, as after the first use of an installation (the bytecode goes to a temporary
folder). `import amodal` and `import lightly` load their parts when they are used, so there is a
second line with what trains and opens a model. Memory is not measured.
"""

import importlib.util
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks._timing import Row
from benchmarks._wall_clock import alternate, process

GOAL = 0.15
"""Seconds that `amodal --help` may take beyond an empty Python program."""
READY = "import amodal; amodal.pretrain, amodal.load, amodal.Encoder"
PEERS = ("lightly", "open_clip_torch")
THEIR_READY = {
    "lightly": "import lightly.loss, lightly.models, lightly.transforms",
    "open_clip": "import open_clip",
}


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        return measured(environment | {"PYTHONPYCACHEPREFIX": folder})


def measured(environment: dict[str, str]) -> list[Row]:
    def against(what: str, ours: list[str], peer_name: str, peer: list[str]) -> Row:
        return alternate(
            what, lambda: process(ours, environment), peer_name, lambda: process(peer, environment)
        )

    rows = []
    for name, parts in THEIR_READY.items():
        if importlib.util.find_spec(name) is None:
            print(f"startup: {name} is not installed, its lines are left out")
            continue
        rows.append(
            against(
                "import amodal", python("import amodal"), f"import {name}", python(f"import {name}")
            )
        )
        rows.append(against("amodal ready to train", python(READY), parts, python(parts)))
    help_row = against("amodal --help", amodal("--help"), "empty program", python(""))
    more = (help_row.ours_ms - help_row.peer_ms) / 1000
    rows.append(replace(help_row, what=f"amodal --help, {more:.2f} s more (goal {GOAL})"))
    rows.append(against("amodal methods", amodal("methods"), "empty program", python("")))
    rows.append(against("amodal doctor", amodal("doctor"), "import torch", python("import torch")))
    return rows


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def amodal(*words: str) -> list[str]:
    """The installed command, as people call it."""
    return [str(Path(sys.executable).with_name("amodal")), *words]

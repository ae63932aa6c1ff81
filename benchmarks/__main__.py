"""`python -m benchmarks [name ...] [--out DIR]`: run the modules of this folder, print tables,
leave JSON and pictures."""

import argparse
import difflib
import importlib
import math
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import _chart, _results
from benchmarks._timing import Row


def shown(number: float, form: str) -> str:
    """Empty for what was not measured."""
    return "" if math.isnan(number) else form.format(number)


def known() -> list[str]:
    """The modules that offer run(); `benchmarks.faults` is a command of its own."""
    modules = pkgutil.iter_modules(benchmarks.__path__)
    return sorted(m.name for m in modules if not m.ispkg and not m.name.startswith("_"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Every module not starting with an underscore offers run() -> list[Row]; one that takes long
    says ONLY_BY_NAME = True and runs only when it is named. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(known())}; all that are short unless named"
    )
    parser.add_argument(
        "--out", type=Path, default=_results.FOLDER, help="folder for NAME.json and NAME.png"
    )
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name not in known():
            near = difflib.get_close_matches(name, known(), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            print(
                f"There is no benchmark {name!r}.{hint} Known: {', '.join(known())}.",
                file=sys.stderr,
            )
            return 2
    for name in asked.names or known():
        module = importlib.import_module(f"benchmarks.{name}")
        if asked.names or not getattr(module, "ONLY_BY_NAME", False):
            rows = module.run()
            about = " ".join((module.__doc__ or "").split())
            path = _results.write(name, about, rows, asked.out, getattr(module, "PEERS", ()))
            show(name, rows)
            _chart.draw(_results.read_one(path), asked.out)
            print(f"{path}")
    return 0


def show(name: str, rows: Sequence[Row]) -> None:
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    table = Table(
        title=f"{name}: peer / ours, above 1, ours is faster or smaller (torch {torch.__version__}, {device})"
    )
    for heading in ("what", "peer"):
        table.add_column(heading)
    for heading in (
        "speed",
        "range",
        "ours ms",
        "peer ms",
        "memory",
        "ours MiB",
        "peer MiB",
        "of limit",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.what,
            row.peer,
            shown(row.speed, "{:.2f}x"),
            "-".join(shown(ratio, "{:.2f}") for ratio in row.spread).strip("-"),
            shown(row.ours_ms, "{:.1f}"),
            shown(row.peer_ms, "{:.1f}"),
            shown(row.memory, "{:.1f}x"),
            shown(row.ours_mib, "{:.1f}"),
            shown(row.peer_mib, "{:.1f}"),
            shown(row.share, "{:.0%} " + row.limit),
        )
    console = Console()
    # Output that goes to a file keeps one line per row.
    (console if console.is_terminal else Console(width=180)).print(table)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        console.print(note, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

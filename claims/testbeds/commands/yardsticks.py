"""`python -m testbeds yardsticks [NAME ...]`: chance, simple features and peers on each task."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import testbeds
from testbeds import yardsticks


def main(arguments: Sequence[str]) -> int:
    """Measure what is not measured yet, and print a table a testbed."""
    parser = argparse.ArgumentParser("python -m testbeds yardsticks", description=__doc__)
    parser.add_argument("names", nargs="*", help="testbeds; all unless named")
    parser.add_argument(
        "--test", action="store_true", help="the test part, not the validation part"
    )
    parser.add_argument("--redo", action="store_true", help="measure anew what is there")
    parser.add_argument("--out", type=Path, default=yardsticks.RESULTS, help="folder for NAME.json")
    parser.add_argument("--show", action="store_true", help="print what is there, measure nothing")
    asked = parser.parse_args(arguments)
    console = Console()
    for bed in [testbeds.testbed(name) for name in asked.names or testbeds.names()]:
        if not asked.show:
            yardsticks.measure(
                bed, test=asked.test, folder=asked.out, redo=asked.redo, say=console.log
            )
        console.print(table(bed, "test" if asked.test else "valid", asked.out))
    return 0


def table(bed: testbeds.Testbed, part: str, folder: Path) -> Table:
    """The numbers of a testbed on one part: a row a method, a column a task."""
    cells = [cell for cell in yardsticks.read(bed.name, folder) if cell["part"] == part]
    where = {"valid": "validation", "test": "test"}[part]
    made = Table(title=f"{bed.name}: {bed.title} ({where} part)", title_justify="left")
    made.add_column("method")
    for task in bed.tasks:
        made.add_column(f"{task.name}\n{task.metric}", overflow="fold")
    methods = dict.fromkeys((cell["method"], cell["variant"]) for cell in cells)
    for method, variant in methods:
        found = {c["task"]: c for c in cells if (c["method"], c["variant"]) == (method, variant)}
        row = [yardsticks.shown(found[t.name]) if t.name in found else "" for t in bed.tasks]
        made.add_row(f"{method} {variant}".strip(), *row)
    return made

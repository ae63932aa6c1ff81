"""`python -m testbeds list`: every testbed, its records by part, tasks and cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

import testbeds
from testbeds import cards


def main(arguments: Sequence[str]) -> int:
    """Print the table. Records of a set that is not here are not counted."""
    argparse.ArgumentParser("python -m testbeds list", description=__doc__).parse_args(arguments)
    Console().print(table())
    return 0


def table() -> Table:
    """All testbeds."""
    made = Table(
        caption="counts of a set that is not here yet are left out", caption_justify="left"
    )
    for column in ("name", "title", "train", "validation", "test", "fields", "tasks", "download"):
        right = column in ("train", "validation", "test")
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    made.add_column("licence", overflow="fold")
    for name in testbeds.names():
        one = testbeds.testbed(name)
        counts = ["", "", ""]
        if one.is_here:
            data = one.open()
            counts = [f"{len(data.split(part)):,}" for part in ("train", "valid", "test")]
        made.add_row(
            one.name,
            one.title,
            *counts,
            ", ".join(one.fields),
            _tasks(one),
            cards.cost(one),
            cards.licence(one),
        )
    return made


def _tasks(one: testbeds.Testbed) -> str:
    """The primary task, and how many others there are."""
    others = f"; {len(one.tasks) - 1} more" if len(one.tasks) > 1 else ""
    return f"{one.primary.name} ({one.primary.metric}){others}"

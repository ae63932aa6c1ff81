"""`python -m testbeds budgets NAME ...`: how many steps a control needs; trains, so it takes long."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import testbeds
from testbeds import budgets


def main(arguments: Sequence[str]) -> int:
    """Measure; the page of a testbed then has to say the steps that came out."""
    parser = argparse.ArgumentParser("python -m testbeds budgets", description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--out", type=Path, default=budgets.RESULTS, help="folder for NAME.json")
    parser.add_argument("--redo", action="store_true", help="measure anew what is there")
    asked = parser.parse_args(arguments)
    for bed in [testbeds.testbed(name) for name in asked.names]:
        if asked.redo or budgets.read(bed.name, asked.out) is None:
            budgets.measure(bed, folder=asked.out)
        print(f"{bed.name}: {bed.steps} steps on its page; {budgets.reason(bed, asked.out)}")
    return 0

"""Testbeds: real sets with fixed splits, tasks, peers and budgets, on which defaults are compared.

One page a testbed: `testbeds/pages/digits.py` makes `TESTBED`, the testbed `digits`. All of its
tables come from `python -m testbeds`.
"""

from __future__ import annotations

import importlib
import pkgutil

from amodal.core import unknown
from testbeds import pages
from testbeds.testbed import METRICS, Fit, Peer, Predict, Records, Task, Testbed

__all__ = [
    "METRICS",
    "Fit",
    "Peer",
    "Predict",
    "Records",
    "Task",
    "Testbed",
    "names",
    "testbed",
]


def names() -> list[str]:
    """The testbeds that there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(pages.__path__))


def testbed(name: str) -> Testbed:
    """Look a testbed up.

    Raises:
        AmodalError: there is none of that name, with the nearest ones.
    """
    if name not in names():
        raise unknown("testbed", name, names())
    made = importlib.import_module(f"testbeds.pages.{name}").TESTBED
    assert isinstance(made, Testbed)
    return made

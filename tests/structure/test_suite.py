"""The order of the suite is of files that are there."""

from tests.conftest import LONG
from tests.structure.tree import ROOT


def test_files_that_begin_the_run_are_there():
    missing = [file for file in LONG if not (ROOT / "tests" / file).exists()]
    assert not missing, f"take out of LONG in tests/conftest.py: {missing}"

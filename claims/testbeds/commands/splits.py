"""`python -m testbeds splits [NAME ...]`: compare the splits with the lock; `--write` writes it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import testbeds
from testbeds import splits


def main(arguments: Sequence[str]) -> int:
    """Returns 1 where a split is not that of the lock. A set that is not here is left alone."""
    parser = argparse.ArgumentParser("python -m testbeds splits", description=__doc__)
    parser.add_argument("names", nargs="*", help="testbeds; all unless named")
    parser.add_argument("--write", action="store_true", help="the splits as they are now")
    asked = parser.parse_args(arguments)
    known, found, changed = splits.locked(), {}, []
    for bed in [testbeds.testbed(name) for name in asked.names or testbeds.names()]:
        if not bed.is_here:
            print(f"{bed.name}: not here, not compared (amodal data {bed.data} gets it)")
            continue
        found[bed.name] = splits.of(bed.open())
        if known.get(bed.name) != found[bed.name]:
            changed.append(bed.name)
    if asked.write:
        splits.lock(found)
        print(f"{splits.LOCK.name}: {len(found)} testbeds, {len(changed)} of them changed")
        return 0
    for name in changed:
        print(f"{name}: the split is not that of {splits.LOCK.name}; numbers cannot be compared")
    print(f"{len(found) - len(changed)} of {len(found)} splits are those of {splits.LOCK.name}")
    return 1 if changed else 0

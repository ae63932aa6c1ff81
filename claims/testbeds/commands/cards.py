"""`python -m testbeds cards [FILE]`: write docs/testbeds-cards.md from the pages and the data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from testbeds import cards

DEFAULT = Path("docs/testbeds-cards.md")


def main(arguments: Sequence[str]) -> int:
    """Write the file; needs the data of every testbed, and fetches what is not here."""
    parser = argparse.ArgumentParser("python -m testbeds cards", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT)
    file = parser.parse_args(arguments).file
    file.write_text(cards.page(), encoding="utf-8")
    print(f"wrote {file}")
    return 0

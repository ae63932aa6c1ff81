"""Data sets that come with the library: folders with dataset.toml, records.parquet and a data card,
README.md."""

from difflib import get_close_matches
from pathlib import Path

from amodal.core import AmodalError
from amodal.core.registry import reserve

NAMES = ("digits", "globe")
reserve("datasets", NAMES)


def path(name: str) -> Path:
    """The folder of a bundled set: `path("globe")`.

    Raises:
        AmodalError: no bundled set has that name; it offers the nearest one.
    """
    if name not in NAMES:
        near = get_close_matches(name.lower(), NAMES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AmodalError(
            f"no bundled set is called {name!r}; there is {' and '.join(NAMES)}.{hint}"
        )
    return Path(__file__).parent / name

"""Public sets, one a page: which packages hold it, under which licence, and how it becomes records.

The path is the name: `amodal/data/sets/watch.py` is the set `watch`. A page has PACKAGES, LICENCE,
RECORDS (if known) and `write(out, archives)`, which writes dataset.toml and the records; a
generated set has PACKAGES = (). Sets are built once, into the cache; delete the folder to build one
again.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from pathlib import Path
from types import ModuleType

from amodal.core import AmodalError
from amodal.core.registry import load, pages
from amodal.data import fetch as packages

ABOUT = "fetched.json"
"""Beside dataset.toml: what the set was built from."""


def names() -> list[str]:
    return sorted(pages("data/sets"))


def page(name: str) -> ModuleType:
    """The page of a set. Raises AmodalError with the nearest name."""
    return load("data/sets", name, "public set")


def where(name: str) -> Path:
    """The folder in the cache that a set is built into, whether it is there or not."""
    return packages.cache() / "sets" / name.replace("-", "_")


def there(name: str) -> bool:
    return (where(name) / ABOUT).exists()


def fetch(
    name: str, *, out: str | Path | None = None, any_version: bool = False, say=print
) -> Path:
    """The folder of a set, built now if it is not there. out: a folder to build it in, instead of
    the cache."""
    source = page(name)
    name = source.__name__.rpartition(".")[2]
    folder = where(name) if out is None else Path(out)
    if (folder / ABOUT).exists():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AmodalError(
            f"{folder} is there and is not the set {name!r}. Delete it, or choose another folder."
        )
    archives = [packages.download(p, any_version=any_version, say=say) for p in source.PACKAGES]
    say(f"building {name}: {title(source)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as draft:
        built = Path(draft) / name
        built.mkdir()
        source.write(built, archives)
        _finish(built, source, archives, any_version)
        try:
            os.replace(built, folder)
        except OSError:
            if not (folder / ABOUT).exists():  # else another process was quicker
                raise
    say(f"{folder}: licence {source.LICENCE}")
    return folder


def ensure(data: str, say=print) -> None:
    """Fetch `data` if it is the name of a set that is not there."""
    if not Path(data).exists() and data in names() and not there(data):
        fetch(data, say=say)


def missing(name: str) -> AmodalError:
    source = page(name)
    return AmodalError(
        f"{name!r} is a public set that is not here yet ({title(source)}; {cost(source)}, {source.LICENCE}). "
        f"Get it with: amodal data {name}"
    )


def listing():
    """A table of all sets."""
    from rich.table import Table

    table = Table(caption="amodal data NAME gets one", caption_justify="left")
    for column in ("set", "what it holds", "records", "size", "licence", "here"):
        table.add_column(
            column, justify="right" if column in ("records", "size") else "left", overflow="fold"
        )
    for name in names():
        source = page(name)
        count = getattr(source, "RECORDS", None) or (
            about(name)["records"] if there(name) else None
        )
        here = "yes" if there(name) else "no"
        table.add_row(
            name, title(source), f"{count:,}" if count else "?", cost(source), source.LICENCE, here
        )
    return table


def title(source: ModuleType) -> str:
    return inspect.getdoc(source).partition("\n")[0].rstrip(".")


def cost(source: ModuleType) -> str:
    """What has to be downloaded."""
    megabytes = sum(p.megabytes for p in source.PACKAGES)
    return (
        "generated"
        if not source.PACKAGES
        else f"{megabytes:.0f} MB"
        if megabytes >= 1
        else f"{megabytes:.1f} MB"
    )


def about(name: str) -> dict:
    return json.loads((where(name) / ABOUT).read_text())


def _finish(built: Path, source: ModuleType, archives: list[Path], any_version: bool) -> None:
    """Open what was written, which proves that it opens; write down what was measured, so that
    nobody measures it again; say where it comes from."""
    from amodal.data import open_dataset as opening
    from amodal.data import schema
    from amodal.data.sets.shared.card import card

    toml = built / "dataset.toml"
    dataset = opening.from_toml(toml)
    expected = getattr(source, "RECORDS", len(dataset))
    if len(dataset) != expected and not any_version:
        raise AmodalError(
            f"{dataset.name} has {len(dataset):,} records, not {expected:,} as it should"
        )
    toml.write_text(schema.dumps(dataset.schema), encoding="utf-8")
    if not (built / "README.md").exists():
        (built / "README.md").write_text(card(dataset, source), encoding="utf-8")
    pairs = zip(source.PACKAGES, archives)
    built_from = [
        {"registry": p.registry, "name": p.name, "file": a.name, "sha256": packages.sha256(a)}
        for p, a in pairs
    ]
    written = {
        "set": dataset.name,
        "records": len(dataset),
        "licence": source.LICENCE,
        "packages": built_from,
    }
    (built / ABOUT).write_text(json.dumps(written, indent=1) + "\n")

"""Which recipe a method is trained by: its paper's, one for small data, or the plain one.

`small_recipes.toml` is written by `python -m testbeds defaults` (in `claims/`), never by hand. Each
table has the changes of the plain recipe that were best for a method, over all testbeds and, where
that differs clearly, for data of one kind.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from amodal.core.recipe import Recipe
from amodal.errors import AmodalError, unknown

CHOICES = ("paper", "small", "plain")
FILE = Path(__file__).with_name("small_recipes.toml")
SMALL = 20_000
"""Training records below which data is small. The testbeds have some hundred to 12,000."""


@functools.cache
def small_recipes(file: Path = FILE) -> dict[str, Any]:
    """Method -> what its small recipes change; {} where there is no file.

    Raises:
        AmodalError: If the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AmodalError(f"{file} is damaged: {error}; install amodal anew") from error


def small_recipe(method: str, kinds: Collection[str] = ()) -> dict[str, Any] | None:
    """What the small recipe of a method changes in the plain one, None if it has none.

    Args:
        method: Its name.
        kinds: Of the fields of the data. Data of one kind may have a recipe of its own.
    """
    table = small_recipes().get(method)
    if table is None:
        return None
    of_kind = table.get("kinds", {}).get(next(iter(kinds))) if len(set(kinds)) == 1 else None
    return dict(table["recipe"] if of_kind is None else of_kind)


def choose(
    method: str,
    paper: Recipe | None,
    choice: str = "",
    *,
    records: int | None = None,
    kinds: Collection[str] = (),
    below: int = SMALL,
) -> tuple[Recipe, str]:
    """The recipe of a method.

    Args:
        method: Its name.
        paper: The recipe of its page, None if that has none.
        choice: One of `CHOICES`; "" for the paper's, without one the small recipe on small data,
            else the plain one.
        records: To train on, None if that is not known.
        kinds: Of the fields of the data.
        below: Records that are no small data any more.

    Returns:
        The recipe, and which of `CHOICES` it is.

    Raises:
        AmodalError: For an unknown choice, and for one that the method does not have.
    """
    if choice and choice not in CHOICES:
        raise unknown("recipe", choice, CHOICES)
    small = small_recipe(method, kinds)
    if choice == "paper" and paper is None:
        raise AmodalError(f"the page of {method} has no recipe of its own; take small or plain")
    if choice == "small" and small is None:
        raise AmodalError(f"there is no small recipe for {method} yet; take plain")
    if paper is not None and choice in ("", "paper"):
        return paper, "paper"
    is_small = records is not None and records < below
    if small is not None and (choice == "small" or (not choice and is_small)):
        return Recipe.of(small), "small"
    return Recipe(), "plain"

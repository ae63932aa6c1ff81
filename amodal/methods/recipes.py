"""Which recipe a method is trained by: its paper's, one for small data, or the plain one.

`small_recipes.toml` is written by `python -m testbeds defaults` and `encoders` (in `claims/`),
never by hand. Each table has the changes of the plain recipe that were best for a method, over all
testbeds and, where that differs clearly, for data of one kind; and networks from scratch that were
better than tokens, for each kind of field.
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
SMALL = 100_000
"""Training records below which data is small. The testbeds have some hundred to 54,000, and what
papers call large begins at a million."""
PAPER_RECORDS = 1_000_000
"""Training records from which a page's recipe for the paper's amount of data is the usual one."""


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
    table = small_recipes().get(method, {})
    if "recipe" not in table:
        return None
    of_kind = table.get("kinds", {}).get(next(iter(kinds))) if len(set(kinds)) == 1 else None
    return dict(table["recipe"] if of_kind is None else of_kind)


def small_encoders(method: str) -> dict[str, str]:
    """Kind of field -> the network from scratch with which a method did best on small data.

    Kinds that did best with the tokens that they have without a network are not among them.
    """
    return dict(small_recipes().get(method, {}).get("encoders", {}))


def choose(
    method: str,
    page: Recipe | None,
    choice: str = "",
    *,
    paper: Recipe | None = None,
    records: int | None = None,
    kinds: Collection[str] = (),
    below: int = SMALL,
    large: int = PAPER_RECORDS,
) -> tuple[Recipe, str]:
    """The recipe of a method.

    Args:
        method: Its name.
        page: The recipe of its page for any data, None if that has none.
        choice: One of `CHOICES`. "" for the small recipe on small data; without one the page's; on
            data that is not small the paper's; else the plain one.
        paper: The paper's, where the page has that too. It is for the paper's amount of data: on a
            few thousand records a batch of 4,096 and 1,000 epochs learn little in a long time.
        records: To train on, None if that is not known.
        kinds: Of the fields of the data.
        below: Records that are no small data any more.
        large: Records from which the paper's recipe is taken without being asked for.

    Returns:
        The recipe, and which of `CHOICES` it is, or "page".

    Raises:
        AmodalError: For an unknown choice, and for one that the method does not have.
    """
    if choice and choice not in CHOICES:
        raise unknown("recipe", choice, CHOICES)
    small, full = small_recipe(method, kinds), paper or page
    if choice == "paper":
        if full is None:
            raise AmodalError(f"the page of {method} has no recipe of its own; take small or plain")
        return full, "paper"
    if choice == "small" and small is None:
        raise AmodalError(f"there is no small recipe for {method} yet; take plain")
    is_small = records is not None and records < below
    if small is not None and (choice == "small" or (not choice and is_small)):
        return Recipe.of(small), "small"
    if not choice and page is not None:
        return page, "page"
    if not choice and paper is not None and records is not None and records >= large:
        return paper, "paper"
    return Recipe(), "plain"

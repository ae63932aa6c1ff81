"""The types that cross folders.

Shape legend, used in names and docstrings everywhere:

B rows of a batch · N rows that have a value · T tokens · D width · S sources · H heads · P
coordinates · K classes or prototypes
"""

from typing import TYPE_CHECKING, Any

from amodal.errors import AmodalError as AmodalError
from amodal.errors import AmodalWarning as AmodalWarning
from amodal.errors import unknown as unknown

if TYPE_CHECKING:  # the names of `__getattr__`, for type checkers
    from amodal.core.batch import Batch as Batch
    from amodal.core.batch import row_seeds as row_seeds
    from amodal.core.column import Column as Column
    from amodal.core.column import Ragged as Ragged
    from amodal.core.embeddings import Embeddings as Embeddings
    from amodal.core.recipe import Recipe as Recipe
    from amodal.core.sources import field_of as field_of
    from amodal.core.sources import name_code as name_code
    from amodal.core.sources import view_of as view_of
    from amodal.core.sources import views_of as views_of
    from amodal.core.tokens import POSITION_DIMS as POSITION_DIMS
    from amodal.core.tokens import Tokens as Tokens

_HOME = {
    "POSITION_DIMS": "tokens",
    "Batch": "batch",
    "Column": "column",
    "Embeddings": "embeddings",
    "Ragged": "column",
    "Recipe": "recipe",
    "Tokens": "tokens",
    "field_of": "sources",
    "name_code": "sources",
    "row_seeds": "batch",
    "view_of": "sources",
    "views_of": "sources",
}
__all__ = sorted([*_HOME, "AmodalError", "AmodalWarning", "unknown"])


def __getattr__(name: str) -> Any:
    # imported on first use, so that the command line can read `amodal.core.recipe` without torch
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(f"amodal.core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'amodal.core' has no attribute {name!r}")

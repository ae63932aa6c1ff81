"""The types that cross folders. Shape legend, used everywhere in names and docstrings:

B rows of a batch · N rows that have a value · T tokens · D width · S sources · H heads · P coordinates · K classes or prototypes
"""

from amodal.core.batch import Batch, row_seeds
from amodal.core.column import Column, Ragged
from amodal.core.embeddings import Embeddings
from amodal.core.sources import field_of, name_code, view_of, views_of
from amodal.core.tokens import POSITION_DIMS, Tokens
from amodal.errors import AmodalError, unknown

__all__ = [
    "POSITION_DIMS",
    "AmodalError",
    "Batch",
    "Column",
    "Embeddings",
    "Ragged",
    "Tokens",
    "field_of",
    "name_code",
    "row_seeds",
    "unknown",
    "view_of",
    "views_of",
]

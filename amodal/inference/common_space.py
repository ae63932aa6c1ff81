"""Which fields of a run can be compared with each other."""

from __future__ import annotations

from amodal.core import Column, Embeddings
from amodal.diagnose.volume import volume_of
from amodal.inference.forward_passes import AnyEncoder
from amodal.methods.contract import Method

ALIKE = 0.6
"""`auroc` of volumes below which fields have no common space."""
MIN_PAIRS = 20
"""Records with both fields, by which a common space is recognised."""


def compared_fields(encoder: AnyEncoder, method: Method | None = None) -> tuple[str, ...]:
    """The fields whose vectors lie in one space, as far as the method says.

    Args:
        encoder: With or without heads into such a space.
        method: That trained it, if it is known.
    """
    if encoder.heads is None or (method is not None and not method.compares_fields):
        return ()
    return tuple(field for field in encoder.fields if field in encoder.heads)


def pairs_alike(records: Column, others: Column) -> float | None:
    """How often two values of one record are more alike than those of different records.

    Args:
        records: (N, D) vectors of one field, or of fields together.
        others: (M, D) of another field.

    Returns:
        The area under the curve, .5 by chance; None for fewer than `MIN_PAIRS` pairs.
    """
    if not len(records) or not len(others):
        return None
    size = int(max(records.rows.max(), others.rows.max())) + 1
    both = Embeddings({"records": records, "others": others}, size)
    row = volume_of(both, both.sources)
    return None if row is None or int(row["n"]) < MIN_PAIRS else float(row["auroc"])

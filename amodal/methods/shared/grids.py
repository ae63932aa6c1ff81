"""Fields that lie on one ground."""

from __future__ import annotations

from amodal.nn.attention.bias import plane_of
from amodal.nn.encoder import Encoder


def views_together(encoder: Encoder) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """The views of fields: those that lie on a grid are turned together if there is more than one,
    so that they stay on one ground; if one of them must not be turned, none is."""
    grids = plane_of(encoder.fields)
    if len(grids) < 2:
        return ("weak",)
    turned = all(encoder.fields[f].known_view("turned") == "turned" for f in grids)
    together = "turned" if turned else "plain"
    return {f: (together if f in grids else "weak",) for f in encoder.fields}

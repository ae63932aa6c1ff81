"""What a spec of a model of transformers says: a directory, and what of the model is meant."""

from __future__ import annotations

import re
from typing import NamedTuple

SCRATCH, FIRST, LAST, PROJECTED = "@scratch", "@first", "@last", "@projected"
LAYER = re.compile(r"@layer([1-9]\d*)$")


class Source(NamedTuple):
    """What DIR[@layerN][@first|@last][@projected][@scratch] says.

    Attributes:
        directory: DIR.
        is_scratch, is_first, is_last, is_projected: Whether it has these words.
        layer: N, 0 for the last one.
    """

    directory: str
    is_scratch: bool
    is_first: bool
    is_last: bool
    is_projected: bool
    layer: int


def source_of(named: str) -> Source:
    """Read the part of a spec behind `transformers:`, without braces."""
    whole = named.removesuffix(SCRATCH)
    states = whole.removesuffix(PROJECTED)
    bare = states.removesuffix(FIRST).removesuffix(LAST)
    named_layer = LAYER.search(bare)
    rest, layer = (bare[: named_layer.start()], named_layer[1]) if named_layer else (bare, "0")
    return Source(
        rest,
        whole != named,
        states.endswith(FIRST),
        states.endswith(LAST),
        states != whole,
        int(layer),
    )

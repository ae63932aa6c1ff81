"""What a spec of a model of transformers says: a directory, and what of the model is meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

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


def preprocessing(folder: Path, part: str) -> dict[str, Any]:
    """How a folder says that values become inputs, {} where it does not.

    Args:
        folder: Of a model of transformers.
        part: "image_processor" or "feature_extractor", by which newer folders, with one
            processor_config.json for all kinds of values, call it.
    """
    old, new = folder / "preprocessor_config.json", folder / "processor_config.json"
    file = old if old.is_file() else new
    if not file.is_file():
        return {}
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return known if file is old else dict(known.get(part) or {})

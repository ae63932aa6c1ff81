"""Generative retrieval: a method names the records it was trained on itself, without an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from amodal.core import AmodalError
from amodal.inference.embed import value_batches
from amodal.inference.query import Hit, field_for
from amodal.methods.contract import Method
from amodal.modalities import Raw

KEYS = "keys.json"


@dataclass(frozen=True)
class GenerativeRetriever:
    """Args: method: has `retrieve` (see `amodal.core.protocols.Retrieves`); keys: of the records it
    was trained on, in order."""

    method: Method
    keys: list[str]

    @torch.no_grad()
    def __call__(self, query: Mapping[str, Raw], *, k: int = 10) -> list[Hit]:
        """The k records whose identifiers the decoder writes with the highest log probability
        (`score`) for a query of one part; `part` is the identifier. Raises AmodalError for any
        other query, and for values that cannot be read."""
        asks, encoder = self.method.query_field, self.method.encoder
        if k < 1:
            raise AmodalError(f"k = {k}: at least one record must be asked for")
        if not query:
            raise AmodalError(
                f"a query needs something to look for; this run writes identifiers for its field {asks!r}"
            )
        fields = {field_for(encoder, name): value for name, value in query.items()}
        if set(fields) != {asks} or len(query) > 1:
            raise AmodalError(
                f"this run learnt to write identifiers for its field {asks!r} alone, not for {', '.join(query)}; "
                "without --generate an index takes any part"
            )
        batch = next(value_batches(encoder, asks, [fields[asks]], 1))
        found, scores, codes = self.method.retrieve(batch, beams=max(k, 10))
        numbers = found.values[0][:k].tolist()
        if max(numbers) >= len(self.keys):
            raise AmodalError(
                f"{KEYS} has {len(self.keys)} records and the decoder names more; it is of another run"
            )
        names = [".".join(str(t) for t in codes[n].tolist() if t >= 0) for n in numbers]
        return [
            Hit(self.keys[n], s, "identifier", {}, name)
            for n, s, name in zip(numbers, scores[0].tolist(), names)
            if n >= 0
        ]


def keys_of(folder: str | Path) -> list[str]:
    file = Path(folder) / KEYS
    try:
        return [str(key) for key in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as e:
        raise AmodalError(
            f"{file}, the records that the run can name, cannot be read ({e}); train again"
        ) from e

"""Generative retrieval: a method writes the identifiers of the records it was trained on.

No index is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.protocols import Retrieves
from amodal.core.regular_file import regular
from amodal.inference.embed import value_batches
from amodal.inference.query import Hit, field_for, merged
from amodal.methods.contract import Method
from amodal.modalities import Raw

KEYS = "keys.json"


def retriever_of(
    method: Method | None, retrieves: bool, folder: Path, name: str
) -> GenerativeRetriever:
    """The retriever of a run.

    Args:
        method: Of the run.
        retrieves: Whether it writes identifiers, as its spec says.
        folder: Of the run, with the keys of its records.
        name: Of its method, for messages.

    Raises:
        AmodalError: For a run that writes no identifiers.
    """
    if not retrieves or method is None:
        why = (
            "the run was made before its decoder was saved, or with an average of weights; "
            "train it anew"
            if name == "grace"
            else f"{name} finds records by an index: leave --generate out, or train grace"
        )
        raise AmodalError(f"the run in {folder} writes no identifiers of records: {why}")
    return GenerativeRetriever(method, keys_of(folder))


@dataclass(frozen=True)
class GenerativeRetriever:
    """Finds records by a method that generates their identifiers.

    Args:
        method: One that has `retrieve`, see `amodal.core.protocols.Retrieves`.
        keys: Keys of the records it was trained on, in order.
    """

    method: Method
    keys: list[str]

    @torch.no_grad()
    def __call__(self, query: Mapping[str, Raw], *, k: int = 10) -> list[Hit]:
        """Find the k records with the most probable identifiers.

        Args:
            query: One field, or modality, and a raw value of it.
            k: How many records.

        Returns:
            Best first. `score` is the log probability of the identifier, `part` the identifier.

        Raises:
            AmodalError: For another query, for a value that cannot be decoded, and if the keys are
                those of another run.
        """
        if not isinstance(self.method, Retrieves):
            raise AmodalError(f"{type(self.method).__name__} generates no identifiers of records")
        query_field, encoder = self.method.query_field, self.method.encoder
        if k < 1:
            raise AmodalError(f"k = {k}: at least one record must be asked for")
        if not query:
            raise AmodalError(
                "a query needs something to look for; this run writes identifiers for its field "
                f"{query_field!r}"
            )
        fields = {field_for(encoder, name): value for name, value in query.items()}
        if set(fields) != {query_field} or len(query) > 1:
            raise AmodalError(
                f"this run learnt to write identifiers for its field {query_field!r} alone, not "
                f"for {', '.join(query)}; without --generate an index takes any part"
            )
        batch = next(value_batches(encoder, query_field, [fields[query_field]], 1))
        # A narrow beam may lose the likeliest identifier on the way, so never fewer than the
        # default of k: asking for one record gives the first of ten. The width is not tuned.
        found, scores, codes = self.method.retrieve(batch, beams=max(k, 10))
        numbers = vectors_of(found)[0][:k].tolist()
        if max(numbers) >= len(self.keys):
            raise AmodalError(
                f"{KEYS} has {len(self.keys)} records and the decoder names more; "
                "it is of another run"
            )
        names = [".".join(str(t) for t in codes[n].tolist() if t >= 0) for n in numbers]
        return [
            Hit(self.keys[n], s, "identifier", {}, name)
            for n, s, name in zip(numbers, scores[0].tolist(), names)
            if n >= 0
        ]


def keys_of(folder: str | Path) -> list[str]:
    """The keys of the records that a run was trained on, in order.

    Raises:
        AmodalError: If the file is missing or damaged.
    """
    file = Path(folder) / KEYS
    try:
        return [str(key) for key in json.loads(regular(file).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as e:
        raise AmodalError(
            f"{file}, the records that the run can name, cannot be read ({e}); train it anew"
        ) from e


class RetrieveMixin:
    """The records that a run names by itself, without an index."""

    config: dict[str, Any]
    method: Method | None
    spec: dict[str, Any]

    if TYPE_CHECKING:

        def _run_dir(self) -> Path: ...

    @cached_property
    def retriever(self) -> GenerativeRetriever:
        """Writes identifiers of records, without an index. AmodalError for other methods."""
        name = self.config.get("method", "this encoder")
        return retriever_of(self.method, bool(self.spec.get("retrieves")), self._run_dir(), name)

    def generate(
        self, parts: Mapping[str, Any] | None = None, /, *, k: int = 10, **query: Any
    ) -> list[Hit]:
        """Name the k training records for a query by `grace`: `generate(text="a red boat")`."""
        return self.retriever(merged(parts, query), k=k)

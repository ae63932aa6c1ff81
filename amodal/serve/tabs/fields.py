"""Fields: what changes when some of them count and others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from amodal.serve import runs
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Refused
from amodal.serve.tabs._responses import checked_number, not_ready

Fields = Annotated[list[str], Query()]


def add(made: APIRouter, run: Path, embedding_map: EmbeddingMap) -> None:
    def chosen(on: list[str]) -> tuple[str, ...]:
        """These fields in their order; all if none is named."""
        found = tuple(s for s in embedding_map.fields if s in on or not on)
        if len(found) < len(set(on)):
            raise Refused(
                404, f"there is no such field; there are {', '.join(embedding_map.fields)}"
            )
        return found

    def known(label: str) -> str:
        if label not in embedding_map.labels:
            raise Refused(
                404,
                f"there is no such label; there are {', '.join(embedding_map.labels) or 'none'}",
            )
        return label

    @made.get("/view/near/{number}")
    def near(number: int, on: Fields = [], k: Annotated[int, Query(ge=1, le=50)] = 8) -> Any:  # noqa: B006
        """Who is near a record, by the fields that are on."""
        fields = chosen(on) if on else ()
        found = embedding_map.similar_to(checked_number(number, len(embedding_map.keys)), fields, k)
        return [{"number": n, "key": embedding_map.keys[n], "score": s} for n, s in found]

    @made.get("/view/probe")
    def probe(label: str, on: Fields = []) -> Any:  # noqa: B006
        """The nearest-neighbour probe of a label by the fields that are on."""
        found = embedding_map.in_background("probe", chosen(on) if on else (), known(label))
        return not_ready() if found is None else found

    @made.get("/view/retrieval")
    def retrieval(on: Fields = []) -> Any:  # noqa: B006
        """How well one of the fields that are on finds another, and how well all the others
        together do."""
        found = embedding_map.in_background("retrieval", chosen(on))
        return not_ready() if found is None else found

    @made.get("/view/missing")
    def missing(label: str = "") -> Any:
        """Results with fields missing: of a report in the run folder, and of nearest neighbours."""
        reported = runs.missing_rows(run)
        if not label:
            return {"reported": reported, "rows": []}
        found = embedding_map.in_background("missing", known(label))
        return not_ready() if found is None else {"reported": reported, "rows": found}

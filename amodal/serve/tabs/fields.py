"""Fields: what changes when some of them count and others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from amodal.serve import runs
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Refused
from amodal.serve.tabs._responses import there, wait

Fields = Annotated[list[str], Query()]


def add(made: APIRouter, run: Path, atlas: EmbeddingMap) -> None:
    def chosen(on: list[str]) -> tuple[str, ...]:
        """These fields in their order, all unless given."""
        found = tuple(s for s in atlas.fields if s in on or not on)
        if len(found) < len(set(on)):
            raise Refused(404, f"there is no such field; there are {', '.join(atlas.fields)}")
        return found

    def known(label: str) -> str:
        if label not in atlas.labels:
            raise Refused(
                404, f"there is no such label; there are {', '.join(atlas.labels) or 'none'}"
            )
        return label

    @made.get("/view/near/{number}")
    def near(number: int, on: Fields = [], k: Annotated[int, Query(ge=1, le=50)] = 8) -> Any:  # noqa: B006
        """Who is near a record, by the fields that are on."""
        fields = chosen(on) if on else ()
        found = atlas.alike(there(number, len(atlas.keys)), fields, k)
        return [{"number": n, "key": atlas.keys[n], "score": s} for n, s in found]

    @made.get("/view/probe")
    def probe(label: str, on: Fields = []) -> Any:  # noqa: B006
        """How well neighbours tell a label by the fields that are on."""
        found = atlas.later("probe", chosen(on) if on else (), known(label))
        return wait() if found is None else found

    @made.get("/view/retrieval")
    def retrieval(on: Fields = []) -> Any:  # noqa: B006
        """How well one of the fields that are on finds another, and how well all the others
        together do."""
        found = atlas.later("retrieval", chosen(on))
        return wait() if found is None else found

    @made.get("/view/missing")
    def missing(label: str = "") -> Any:
        """With some fields missing: what a report in the run folder says, and what neighbours tell
        of a label."""
        reported = runs.missing_rows(run)
        if not label:
            return {"reported": reported, "rows": []}
        found = atlas.later("missing", known(label))
        return wait() if found is None else {"reported": reported, "rows": found}

"""Find records by a query in any field, or several.

index = open_index("run/index", encoder=encoder, fingerprint="…").update(dataset)
hits = search(index, encoder, {"text": "a red boat"}, k=5, where={"harbour": "north"})
table(hits), as_json(hits), picture_sheet(hits, dataset, "hits.png")
"""

from pathlib import Path

from amodal.search.engine import Engine
from amodal.search.index import Index
from amodal.search.query import Hit, as_json, picture_sheet, search, table

__all__ = ["Engine", "Hit", "Index", "as_json", "open_index", "picture_sheet", "search", "table"]


def open_index(where: str | Path, *, encoder=None, fingerprint: str = "") -> Engine:
    """The index in a folder, or at an address such as qdrant://localhost:6333/photos; one without
    records if there is none yet. Raises AmodalError if another encoder made it, or an address leads
    nowhere."""
    if isinstance(where, str) and "://" in where:
        from amodal.search.qdrant import Qdrant

        return Qdrant(where, encoder=encoder, fingerprint=fingerprint)
    return Index.open(where, encoder=encoder, fingerprint=fingerprint)

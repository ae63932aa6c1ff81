"""Find records by a query in any of their fields.

index = open_index("run/index", encoder=encoder, fingerprint="…").update(dataset)
hits = search(index, encoder, {"text": "a red boat"}, k=5, where={"harbour": "north"})
table(hits), as_json(hits), picture_sheet(hits, dataset, "hits.png")
"""

from pathlib import Path

from amodal.core.argument_types import check_type, is_path
from amodal.inference.query import Hit as Hit
from amodal.nn.encoder import Encoder
from amodal.search.engine import Engine
from amodal.search.index import Index
from amodal.search.query import as_json, picture_sheet, search, table
from amodal.search.tuples import by_volume, rerank

__all__ = [
    "Engine",
    "Hit",
    "Index",
    "as_json",
    "by_volume",
    "open_index",
    "picture_sheet",
    "rerank",
    "search",
    "table",
]


def open_index(
    location: str | Path, *, encoder: Encoder | None = None, fingerprint: str = ""
) -> Engine:
    """Open an index; an empty one if there is none yet.

    Args:
        location: A folder, or an address such as qdrant://localhost:6333/photos.
        encoder: To embed with, needed to `update`.
        fingerprint: Of its weights.

    Raises:
        AmodalError: If another encoder made the index, or the address leads nowhere.
    """
    check_type("the index", location, is_path, "a folder or an address")
    if isinstance(location, str) and "://" in location:
        from amodal.search.qdrant import Qdrant

        return Qdrant(location, encoder=encoder, fingerprint=fingerprint)
    return Index.open(location, encoder=encoder, fingerprint=fingerprint)

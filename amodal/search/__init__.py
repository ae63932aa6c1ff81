"""Find records by a query in any sense, or several.

index = Index.open("run/index", encoder=encoder, fingerprint="…").update(dataset)
hits = search(index, encoder, {"text": "a red boat"}, k=5, where={"harbour": "north"})
table(hits), as_json(hits), picture_sheet(hits, dataset, "hits.png")
"""

from amodal.search.index import Index
from amodal.search.query import Hit, as_json, picture_sheet, search, table

__all__ = ["Hit", "Index", "as_json", "picture_sheet", "search", "table"]

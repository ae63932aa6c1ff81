"""Which records a gallery shows, and in which order: filters by labels, numbers, presence, split
and tags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from amodal.core import unknown
from amodal.data import Dataset
from amodal.data.attributes import Attributes
from amodal.data.splits import PARTS
from amodal.evaluate.labels import is_number
from amodal.modalities.shared.base import shortened
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.facet import Facet, facet_of
from amodal.serve.limits import Refused
from amodal.serve.map_clusters import MapClusters
from amodal.serve.tags import Tags

MAX_CONDITIONS = 32
"""Of one filter."""
MAX_VALUES = 1000
"""Of one condition."""
MAX_TEXT = 500
"""Characters of a part of a key that is searched for."""


@dataclass(frozen=True)
class Query:
    """What a gallery is asked for.

    Args:
        records: Numbers of a selection, in its order; None for all.
        where: Facet, or key -> condition: {"any": [value or None, …]} of classes, {"least",
            "most", "missing"} of numbers, {"holds": text} of keys.
        sort: The facet, or key; "" for the order of the selection.
        descending: The largest first.
    """

    records: tuple[int, ...] | None = None
    where: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sort: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, content: object, records: int) -> Query:
        """From JSON, every part of it checked.

        Args:
            content: {"records", "where", "sort", "descending"}, each optional.
            records: How many there are.

        Raises:
            Refused: For anything else.
        """
        names = ("records", "where", "sort", "descending")
        if not isinstance(content, dict):
            raise Refused(422, f"expected an object with any of {', '.join(names)}")
        for name in content:
            if name not in names:
                raise Refused(422, str(unknown("part of a query", shortened(name), names)))
        chosen = content.get("records")
        if chosen is not None:
            chosen = checked_records(chosen, records)
        where, sort = content.get("where", {}), content.get("sort", "")
        if not isinstance(where, dict) or len(where) > MAX_CONDITIONS:
            raise Refused(422, f"where is an object of up to {MAX_CONDITIONS} conditions")
        for name, condition in where.items():
            _check_condition(name, condition)
        if not isinstance(sort, str):
            raise Refused(422, "sort is the name of what is sorted by")
        return cls(chosen, where, sort, bool(content.get("descending", False)))


def checked_records(content: object, records: int) -> tuple[int, ...]:
    """Numbers of records, each once, in their order. Raises Refused for anything else."""
    if not isinstance(content, list) or not all(type(n) is int for n in content):
        raise Refused(422, "expected a list of numbers of records")
    for n in content:
        if not 0 <= n < records:
            raise Refused(404, f"there is no record {n}")
    return tuple(dict.fromkeys(content))


def _check_condition(name: str, condition: object) -> None:
    where = f"the condition on {shortened(name)!r}"
    if not isinstance(condition, dict) or not condition:
        raise Refused(422, f"{where} is an object with any; least, most, missing; or holds")
    for part, value in condition.items():
        if part == "any":
            fine = isinstance(value, list) and len(value) <= MAX_VALUES
            fine = fine and all(v is None or isinstance(v, str) for v in value)
            expected = f"a list of up to {MAX_VALUES:,} values, null for not known"
        elif part in ("least", "most"):
            fine = type(value) in (int, float) and math.isfinite(value)
            expected = "a number"
        elif part == "missing":
            fine, expected = isinstance(value, bool), "true or false"
        elif part == "holds":
            fine = isinstance(value, str) and len(value) <= MAX_TEXT
            expected = f"a text of up to {MAX_TEXT} characters"
        else:
            parts = ("any", "least", "most", "missing", "holds")
            raise Refused(422, str(unknown(f"part of {where}", shortened(part), parts)))
        if not fine:
            raise Refused(422, f"{where}: {part} is {expected}")


class RecordFilter:
    """Finds records by their properties.

    Args:
        embedding_map: Of the records.
        dataset: Where they are; records that it lacks have no part and no attributes.
        attributes: Of the data.
        tags: Of the records.
        clusters: Of the records.
    """

    def __init__(
        self,
        embedding_map: EmbeddingMap,
        dataset: Dataset,
        attributes: Attributes,
        tags: Tags,
        clusters: MapClusters,
    ):
        self.embedding_map, self.attributes, self.tags = embedding_map, attributes, tags
        self.clusters = clusters
        self.keys: Sequence[str] = embedding_map.keys
        self.dataset = dataset

    @property
    def facets(self) -> list[tuple[str, str, str]]:
        """(by, name, "classes" or "number") of all that records are filtered and sorted by."""
        labels = self.embedding_map.labels.items()
        found = [(f"label:{n}", n, "number" if is_number(v) else "classes") for n, v in labels]
        found += [("part", "split", "classes"), ("tag", "tags", "classes")]
        found.append(("cluster", "cluster on the map", "classes"))
        found += [(f"has:{name}", f"has {name}", "classes") for name in self.embedding_map.fields]
        return found + [(f"data:{n}", n, scale) for n, scale in self.attributes.names.items()]

    def facet(self, by: str) -> Facet | None:
        """A property of all records; None while it is computed.

        Raises:
            Refused: There is no such property.
        """
        kind, _, name = by.partition(":")
        if by == "part":
            return self._parts
        if by == "cluster":
            return self.clusters.facet()
        if kind == "label" and name in self.embedding_map.labels:
            return self._of_label(name)
        if kind == "has" and name in self.embedding_map.fields:
            present = self.embedding_map.present(name).astype(np.int64)
            return Facet(present, ("missing", "there"))
        if kind == "data" and name in self.attributes.names:
            found: Facet | None = self.embedding_map.in_background(self._of_attribute, name)
            return found
        raise Refused(404, f"there is nothing called {shortened(by)!r} to filter or sort by")

    def find(self, query: Query) -> np.ndarray | None:
        """Numbers of the records, in their order; None while something is computed.

        Raises:
            Refused: There is no such property, or it has no such condition.
        """
        everyone = np.arange(len(self.keys))
        found = everyone if query.records is None else np.array(query.records, dtype=np.int64)
        for by, condition in query.where.items():
            passed = self._passed(by, condition)
            if passed is None:
                return None
            found = found[passed[found]]
        if not query.sort:
            return found[::-1] if query.descending else found
        if query.sort == "key":
            ranks: np.ndarray = self._key_ranks
        else:
            facet = self.facet(query.sort)
            if facet is None:
                return None
            ranks = facet.ranks
        ranks = ranks[found]  # a sort puts NaN last
        return found[np.argsort(-ranks if query.descending else ranks, kind="stable")]

    def _passed(self, by: str, condition: Mapping[str, Any]) -> np.ndarray | None:
        """(N,) bool."""
        if by == "key":
            text = _only(by, condition, ("holds",))["holds"].lower()
            return np.fromiter((text in k.lower() for k in self.keys), bool, len(self.keys))
        if by == "tag":
            return self._tagged(_only(by, condition, ("any",))["any"])
        facet = self.facet(by)
        if facet is None:
            return None
        if facet.names is None:
            asked = _only(by, condition, ("least", "most", "missing"))
            least, most = asked.get("least", -math.inf), asked.get("most", math.inf)
            inside: np.ndarray = (facet.values >= least) & (facet.values <= most)
            return inside | ~facet.known if asked.get("missing", False) else inside
        wanted = set(_only(by, condition, ("any",))["any"])
        # the last one is that of -1
        chosen = np.array([name in wanted for name in facet.names] + [None in wanted], dtype=bool)
        passed: np.ndarray = chosen[facet.values]
        return passed

    def tag_mask(self, keys: frozenset[str]) -> np.ndarray:
        """(N,) bool: which records have one of these keys."""
        mask = np.zeros(len(self.keys), dtype=bool)
        number_of = self.embedding_map.number_of
        mask[[number_of[key] for key in keys if key in number_of]] = True
        return mask

    def _tagged(self, wanted: Sequence[str | None]) -> np.ndarray:
        tags = self.tags.all()
        mask = self.tag_mask(frozenset().union(*(tags.get(t, ()) for t in wanted if t is not None)))
        return mask | ~self.tag_mask(frozenset().union(*tags.values())) if None in wanted else mask

    @cached_property
    def _key_ranks(self) -> np.ndarray:
        ranks = np.empty(len(self.keys))
        ranks[sorted(range(len(self.keys)), key=self.keys.__getitem__)] = np.arange(len(self.keys))
        return ranks

    @cached_property
    def _parts(self) -> Facet:
        rows = np.array([self.attributes.row_of.get(key, -1) for key in self.keys], dtype=np.int64)
        parts = np.append(self.dataset.parts, -1)[rows]
        return Facet(parts.astype(np.int64), PARTS)

    @cached_property
    def _labels(self) -> dict[str, Facet]:
        return {name: facet_of(values) for name, values in self.embedding_map.labels.items()}

    def _of_label(self, name: str) -> Facet:
        return self._labels[name]

    def _of_attribute(self, name: str) -> Facet:
        return facet_of(self.attributes.values(name, self.keys))


def _only(by: str, condition: Mapping[str, Any], parts: Sequence[str]) -> Mapping[str, Any]:
    """The condition, if it has these parts alone, the first one among them where it is a text or
    a list."""
    wrong = [part for part in condition if part not in parts]
    if wrong or (len(parts) == 1 and parts[0] not in condition):
        raise Refused(
            422,
            f"the condition on {shortened(by)!r} has {' or '.join(parts)}, not "
            f"{wrong[0] if wrong else 'nothing'}",
        )
    return condition

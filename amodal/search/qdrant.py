"""Qdrant as the engine of an index that outgrows one machine: `amodal index RUN --to
qdrant://HOST:6333/COLLECTION`.

    a point for each record    id made from its key, so that writing a record anew replaces it; a
                               vector for each of its fields, a
                               multivector (MAX_SIM) where it has several; if several fields have
                               such, one more of all together
    payload of a point         key, stamp of its content, labels, numbers of parts where they are
                               not places
    one more point, the card   no vectors; fingerprint of the encoder, width, fields, those of
                               several vectors, the kind of each label

Several processes may write at once. A killed one leaves whole records only, and the next update
goes on after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from uuid import UUID

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.nn.encoder import Encoder
from amodal.search._maxsim import Lists, best_match
from amodal.search._qdrant_address import Address, client_errors, make_client
from amodal.search._qdrant_points import (
    ALL_FIELDS,
    CARD,
    Vectors,
    id_of,
    path_of,
    point_contents,
    request_ranges,
)
from amodal.search._qdrant_query import (
    best_of_fields,
    filter_of,
    requests_of,
    vectors_config,
)
from amodal.search.engine import Engine, Labels, Match, other_encoder
from amodal.search.filter import Where

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

FORMAT = 1
OVERSAMPLING = 4  # candidates for each result wanted, where the server cannot rank by itself
PAGE = 4096  # records whose stamps are asked for at once


class Qdrant(Engine):
    """An index in a Qdrant collection. Search is exact in small collections and by Qdrant's graph
    (HNSW) in large ones; filters are Qdrant's.

    Args:
        path: See `Address`. The key for a server that wants one is read from QDRANT_API_KEY.
        encoder: See `Engine`.
        fingerprint: See `Engine`.
        client: To use instead of a new one.
    """

    concurrent = True

    def __init__(
        self,
        path: str,
        *,
        encoder: Encoder | None = None,
        fingerprint: str = "",
        client: QdrantClient | None = None,
    ):
        super().__init__(path, encoder, fingerprint)
        self.address = Address.parse(path)
        self.client = make_client(self.address) if client is None else client
        self.name = self.address.collection
        self.card: dict[str, Any] = {}
        self._refresh()

    def _refresh(self) -> None:
        with self._talking():
            if self.client.collection_exists(self.name):
                self._read_card()

    def _read_card(self) -> None:
        """Read the card of the collection; {} for an empty collection."""
        found = self.client.retrieve(self.name, [CARD], with_payload=True)
        if not found and self.client.count(self.name, exact=True).count:
            raise AmodalError(
                f"the collection {self.name!r} in {self.path} is not an index of amodal; name "
                "another"
            )
        self.card = (found[0].payload or {}) if found else {}
        if self.card.get("format", FORMAT) not in (FORMAT, FORMAT + 1):
            raise AmodalError(
                f"the index in {self.path} has format {self.card['format']}, this version reads "
                f"format {FORMAT + 1}"
            )
        made_by = self.card.get("fingerprint")
        if made_by and self.fingerprint and made_by != self.fingerprint:
            raise other_encoder(
                self.path, made_by, self.fingerprint, "name another collection, or remove this one"
            )

    def __len__(self) -> int:
        if not self.card:
            self._refresh()  # another process may have begun it
        if not self.card:
            return 0
        with self._talking():
            return self.client.count(self.name, count_filter=self._filter(), exact=True).count

    def __contains__(self, key: str) -> bool:
        return bool(self.stamps([key]))

    @property
    def keys(self) -> list[str]:
        return list(self._all_keys())

    @property
    def sources(self) -> list[str]:
        return list(self.card.get("fields", self.card.get("senses", [])))  # the latter of old ones

    def is_multi_vector(self, field: str) -> bool:
        return field in self.card.get("several", [])  # the key that stored cards have

    @property
    def width(self) -> int:
        return int(self.card.get("width", 0))

    # Changing it

    @contextmanager
    def writing(self) -> Iterator[None]:
        yield
        if self.card:
            self._share_card({})

    def stamps(self, keys: Sequence[str]) -> dict[str, str]:
        stamps: dict[str, str] = {}
        for start in range(0, len(keys) if self.card else 0, PAGE):
            ids = [id_of(key) for key in keys[start : start + PAGE]]
            with self._talking():
                points = self.client.retrieve(
                    self.name, ids, with_payload=["key", "stamp"], with_vectors=False
                )
            payloads = [point.payload or {} for point in points]
            stamps |= {payload["key"]: payload["stamp"] for payload in payloads}
        return stamps

    def record_vectors(self, key: str) -> dict[str, np.ndarray]:
        names = {quote(field, safe=""): field for field in self.sources}
        with self._talking():
            points = self.client.retrieve(
                self.name, [id_of(key)], with_payload=False, with_vectors=list(names)
            )
        if not points:
            raise KeyError(key)
        stored = cast("dict[str, Any]", points[0].vector)
        return {
            names[n]: np.array(v, dtype=np.float32).reshape(-1, self.width)
            for n, v in stored.items()
            if n in names
        }

    def keys_except(self, keys: set[str]) -> set[str]:
        return {key for key in self._all_keys() if key not in keys}

    def _all_keys(self) -> Iterator[str]:
        after, more = None, bool(self.card)
        while more:
            with self._talking():
                points, after = self.client.scroll(
                    self.name,
                    scroll_filter=self._filter(),
                    limit=PAGE,
                    offset=after,
                    with_payload=["key"],
                )
            yield from ((point.payload or {})["key"] for point in points)
            more = after is not None

    def put(
        self, keys: list[str], vectors: dict[str, Lists], stamps: list[str], labels: list[Labels]
    ) -> None:
        fields, many = self._sources(vectors)
        self._begin(
            fields, many, next((lists.values.shape[1] for lists in vectors.values()), 0), labels
        )
        points, payloads = point_contents(
            keys, vectors, stamps, labels, together=bool(self.card.get("every"))
        )
        for start, stop in request_ranges(points, self.width):
            self._upsert(keys[start:stop], points[start:stop], payloads[start:stop])

    def _sources(self, vectors: dict[str, Lists]) -> tuple[list[str], list[str]]:
        """The fields of a new collection (those of the encoder too), and the multi-vector ones."""
        fields = self.encoder.fields if self.encoder is not None else ()
        asked = getattr(self.encoder, "multi_vector", None)
        sources = list(dict.fromkeys([*vectors, *fields]))
        if asked is None:
            return sources, [s for s in vectors if vectors[s].lengths is not None]
        sources = [
            s
            for s in sources
            if s in vectors or s != asked.query_field or not asked.queries_are_lists
        ]
        return sources, [
            s
            for s in sources
            if (vectors[s].lengths is not None if s in vectors else s != asked.query_field)
        ]

    def _upsert(
        self, keys: list[str], vectors: list[Vectors], payloads: list[dict[str, Any]]
    ) -> None:
        from qdrant_client import models

        each = zip(keys, vectors, payloads)
        points = [
            models.PointStruct(id=id_of(key), vector=vector, payload=payload)
            for key, vector, payload in each
        ]
        with self._talking():
            self.client.upsert(self.name, points, wait=True)

    def _begin(self, fields: list[str], many: list[str], width: int, labels: list[Labels]) -> None:
        """Make the collection, its card, and the payload indexes that filters need, where they are
        missing."""
        from qdrant_client import models

        if self.card and (new := [s for s in fields if s not in self.sources]):
            raise AmodalError(
                f"the index in {self.path} has no room for the field {new[0]!r}, it was made for "
                f"{', '.join(self.sources)}; index into another collection"
            )
        kinds = dict(self.card.get("kinds", {}))
        for row in labels:
            for name, value in row.items():
                if value is not None and name not in kinds:
                    kinds[name] = "category" if isinstance(value, str) else "number"
        if self.card and kinds == self.card["kinds"]:
            return
        with self._talking():
            if not self.client.collection_exists(self.name):
                self._create(fields, many, width)
            for name in kinds.keys() - self.card.get("kinds", {}).keys():
                kind = "KEYWORD" if kinds[name] == "category" else "FLOAT"
                if self.address.url:  # the client's own store has no use for it, and says so
                    self.client.create_payload_index(
                        self.name, path_of(name), getattr(models.PayloadSchemaType, kind)
                    )
        about: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "width": width,
            "fields": fields,
        }
        about |= {"format": FORMAT + 1, "several": many, "every": len(many) > 1} if many else {}
        self._share_card(about | self.card | {"kinds": kinds})

    def _share_card(self, card: dict[str, Any]) -> None:
        """Merge the labels that this process and others have met into the stored card."""
        from qdrant_client import models

        mine = card or self.card
        with self._talking():
            self._read_card()
            merged = mine | {"kinds": self.card.get("kinds", {}) | mine["kinds"]}
            if merged != self.card:
                self.client.upsert(
                    self.name, [models.PointStruct(id=CARD, vector={}, payload=merged)], wait=True
                )
        self.card = merged

    def _create(self, fields: list[str], many: list[str], width: int) -> None:
        try:
            self.client.create_collection(
                self.name,
                vectors_config=vectors_config(fields, many, width),
                shard_number=self.address.shards,
                replication_factor=self.address.replicas,
            )
        except Exception:
            if not self.client.collection_exists(self.name):  # else another rank was first
                raise

    def remove(self, keys: Iterable[str]) -> int:
        from qdrant_client import models

        gone = list(self.stamps(list(keys)))
        for start in range(0, len(gone), PAGE):
            ids: list[int | str | UUID] = [id_of(key) for key in gone[start : start + PAGE]]
            with self._talking():
                self.client.delete(self.name, models.PointIdsList(points=ids), wait=True)
        return len(gone)

    # Asking it

    def find(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        where: Where | None,
        unsigned: bool,
    ) -> list[Match]:
        passes, every = self._filter(where), bool(self.card.get("every"))
        if len(query_LD) == 1:  # the nearest of all fields are among the nearest of each
            best = self._ranked(query_LD, k, fields, passes, unsigned)
            if any(map(self.is_multi_vector, fields)):
                return self._explained(query_LD, k, fields, best, unsigned)
            ordered = sorted(best.items(), key=lambda hit: (-hit[1][0], hit[0]))[:k]
            return [Match(key, *hit, part=-1) for key, hit in ordered]
        if unsigned:
            raise AmodalError(
                "a query of many vectors cannot be ranked by |cosine| in Qdrant; index into a "
                "folder"
            )
        if every and set(fields) == set(self.sources):
            best = self._ranked(query_LD, k, [ALL_FIELDS], passes)
        elif len(fields) == 1:
            best = self._ranked(query_LD, k, fields, passes)
        else:
            searched = [*fields, ALL_FIELDS] if every else fields
            best = self._ranked(query_LD, OVERSAMPLING * k, searched, passes)
        return self._explained(query_LD, k, fields, best)

    def _ranked(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        passes: Filter,
        unsigned: bool = False,
    ) -> dict[str, tuple[float, str, Labels]]:
        """key -> score, field and labels of the k best by each field; of these fields the one that
        scores highest."""
        lists = {f: f == ALL_FIELDS or self.is_multi_vector(f) for f in fields}
        exact = unsigned and bool(self.address.url)
        requests = requests_of(query_LD, k, lists, passes, unsigned=unsigned, exact=exact)
        with self._talking():
            responses = self.client.query_batch_points(self.name, [r for _, r in requests])
        return best_of_fields([field for field, _ in requests], responses)

    def _explained(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        candidates: Iterable[str],
        unsigned: bool = False,
    ) -> list[Match]:
        """Rank these records exactly by their vectors; the k best, with the part that matched."""
        names = {quote(field, safe=""): field for field in fields}
        matches = []
        ids = [id_of(key) for key in candidates]
        with self._talking():
            points = self.client.retrieve(
                self.name, ids, with_payload=True, with_vectors=list(names)
            )
        for point in points:
            stored, payload = cast("dict[str, Any]", point.vector), point.payload or {}
            vectors = {
                names[n]: np.array(v, dtype=np.float32).reshape(-1, self.width)
                for n, v in stored.items()
                if n in names
            }
            if not vectors:
                continue  # it was found by a field that is not asked for
            score, field, place = best_match(query_LD, vectors, unsigned)
            part = -1
            if place >= 0 and self.is_multi_vector(field):
                part = payload.get("parts", {}).get(field, range(place + 1))[place]
            matches.append(Match(payload["key"], score, field, payload["labels"], part))
        return sorted(matches, key=lambda match: (-match.score, match.key))[:k]

    def _filter(self, where: Where | None = None) -> Filter:
        """See `filter_of`."""
        return filter_of(where, self.card.get("kinds", {}), self._check_value)

    def _check_value(self, name: str, choice: str) -> None:
        from qdrant_client import models

        has = models.Filter(
            must=[models.FieldCondition(key=path_of(name), match=models.MatchValue(value=choice))]
        )
        with self._talking():
            if not self.client.count(self.name, count_filter=has, exact=True).count:
                values = self.client.facet(self.name, key=path_of(name), limit=1000).hits
                raise unknown(f"value of {name}", choice, {str(hit.value) for hit in values})

    def _talking(self) -> AbstractContextManager[None]:
        return client_errors(self.path)

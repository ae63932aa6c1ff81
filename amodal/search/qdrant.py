"""Qdrant as the engine of an index that outgrows one machine: `amodal index RUN --to qdrant://HOST:6333/COLLECTION`.

    a point for each record    id made from its key, so that writing a record again replaces it; a vector for each of its senses
    payload of a point         key, stamp of its content, labels
    one more point, the card   no vectors; fingerprint of the encoder, width, senses, and the kind of each label

Several processes may write at once. A killed one leaves whole records only, and the next update goes on after them.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID, uuid5

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.search._filter import Where, bounds, choices
from amodal.search.engine import Engine, Found, other_encoder

SCHEMES = ("qdrant", "qdrants")
FORMAT = 1
NAMES = UUID("5f0c7e0a-6f0e-5d51-9a53-6d0f7c1c2a11")
CARD = str(uuid5(NAMES, "\0card"))
POINTS = 256  # in one request: servers refuse requests of more than 32 MB
PAGE = 4096  # records whose stamps are asked for at once


@dataclass(frozen=True)
class Address:
    """`qdrant://HOST:PORT/COLLECTION`, `qdrants://` with TLS; `?shards=6&replicas=2` is how a new collection is laid over machines.
    `qdrant:///FOLDER/COLLECTION`, without a host, is the client's own store in a folder: to try it out, slow."""

    url: str
    folder: str
    collection: str
    shards: int | None = None
    replicas: int | None = None

    @staticmethod
    def of(text: str) -> Address:
        parts, example = urlsplit(text), "qdrant://localhost:6333/photos"
        folder, _, collection = parts.path.rpartition("/")
        if parts.scheme not in SCHEMES or not collection or bool(parts.netloc) == bool(folder):
            raise AmodalError(f"{text!r} is not the address of a collection; write it like {example}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name, value in options.items():
            if name not in ("shards", "replicas"):
                raise unknown("option of a Qdrant address", name, ["shards", "replicas"])
            if not value.isdigit() or int(value) < 1:
                raise AmodalError(f"{name}={value} in {text!r} should be a whole number from 1 on")
        try:
            port = parts.port or 6333
        except ValueError:
            raise AmodalError(f"the port in {text!r} is not a number; write it like {example}") from None
        url = f"{'https' if parts.scheme == 'qdrants' else 'http'}://{parts.hostname}:{port}" if parts.netloc else ""
        return Address(url, folder, collection, **{name: int(value) for name, value in options.items()})


class Qdrant(Engine):
    """path: see `Address`; client: a `qdrant_client.QdrantClient` to use instead of one of its own. The key for a server that wants
    one is read from QDRANT_API_KEY. Search is exact in small collections and by Qdrant's graph in large ones, filters are Qdrant's."""

    many = True

    def __init__(self, path: str, *, encoder=None, fingerprint: str = "", client=None):
        super().__init__(path, encoder, fingerprint)
        self.address = Address.of(path)
        self.client = _client(self.address) if client is None else client
        self.name = self.address.collection
        self.card: dict = {}
        self._look()

    def _look(self) -> None:
        with self._talking():
            if self.client.collection_exists(self.name):
                self._read_card()

    def _read_card(self) -> None:
        """What the collection is of; {} if it is as good as new."""
        found = self.client.retrieve(self.name, [CARD], with_payload=True)
        if not found and self.client.count(self.name, exact=True).count:
            raise AmodalError(f"the collection {self.name!r} in {self.path} is not an index of amodal; name another")
        self.card = found[0].payload if found else {}
        if self.card.get("format", FORMAT) != FORMAT:
            raise AmodalError(
                f"the index in {self.path} has format {self.card['format']}, this version reads format {FORMAT}"
            )
        made_by = self.card.get("fingerprint")
        if made_by and self.fingerprint and made_by != self.fingerprint:
            raise other_encoder(self.path, made_by, self.fingerprint, "name another collection, or remove this one")

    def __len__(self) -> int:
        if not self.card:
            self._look()  # another process may have begun it
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
        return list(self.card.get("senses", []))

    @property
    def width(self) -> int:
        return self.card.get("width", 0)

    # Changing it

    @contextmanager
    def writing(self) -> Iterator[None]:
        yield
        if self.card:
            self._share_card({})

    def stamps(self, keys: Sequence[str]) -> dict[str, str]:
        found = {}
        for start in range(0, len(keys) if self.card else 0, PAGE):
            ids = [_id(key) for key in keys[start : start + PAGE]]
            with self._talking():
                points = self.client.retrieve(self.name, ids, with_payload=["key", "stamp"], with_vectors=False)
            found |= {point.payload["key"]: point.payload["stamp"] for point in points}
        return found

    def beside(self, keys: set[str]) -> set[str]:
        return {key for key in self._all_keys() if key not in keys}

    def _all_keys(self) -> Iterator[str]:
        after, more = None, bool(self.card)
        while more:
            with self._talking():
                points, after = self.client.scroll(
                    self.name, scroll_filter=self._filter(), limit=PAGE, offset=after, with_payload=["key"]
                )
            yield from (point.payload["key"] for point in points)
            more = after is not None

    def put(
        self, keys: list[str], vectors: dict[str, tuple[np.ndarray, np.ndarray]], stamps: list[str], labels: list[dict]
    ) -> None:
        from qdrant_client import models

        senses = list(dict.fromkeys([*vectors, *(self.encoder.fields if self.encoder is not None else ())]))
        self._begin(senses, next((values.shape[1] for values, _ in vectors.values()), 0), labels)
        own: list[dict[str, list[float]]] = [{} for _ in keys]
        for source, (values, at) in vectors.items():
            for value, i in zip(values.astype(np.float32), at.tolist()):
                own[i][quote(source, safe="")] = value.tolist()
        for start in range(0, len(keys), POINTS):
            points = [
                models.PointStruct(
                    id=_id(keys[i]),
                    vector=own[i],
                    payload={"key": keys[i], "stamp": stamps[i], "labels": labels[i]},
                )
                for i in range(start, min(start + POINTS, len(keys)))
            ]
            with self._talking():
                self.client.upsert(self.name, points, wait=True)

    def _begin(self, senses: list[str], width: int, labels: list[dict]) -> None:
        """Make the collection, its card, and what filters of labels need, as far as they are not there."""
        from qdrant_client import models

        if self.card and (new := [s for s in senses if s not in self.sources]):
            raise AmodalError(
                f"the index in {self.path} has no room for the sense {new[0]!r}, it was made for {', '.join(self.sources)}; "
                "index into another collection"
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
                self._create(senses, width)
            for name in kinds.keys() - self.card.get("kinds", {}).keys():
                kind = "KEYWORD" if kinds[name] == "category" else "FLOAT"
                if self.address.url:  # the client's own store has no use for it, and says so
                    self.client.create_payload_index(self.name, _path(name), getattr(models.PayloadSchemaType, kind))
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "width": width, "senses": senses}
        self._share_card(about | self.card | {"kinds": kinds})

    def _share_card(self, card: dict) -> None:
        """Bring the card up to date with labels that this process and others have met."""
        from qdrant_client import models

        mine = card or self.card
        with self._talking():
            self._read_card()
            merged = mine | {"kinds": self.card.get("kinds", {}) | mine["kinds"]}
            if merged != self.card:
                self.client.upsert(self.name, [models.PointStruct(id=CARD, vector={}, payload=merged)], wait=True)
        self.card = merged

    def _create(self, senses: list[str], width: int) -> None:
        from qdrant_client import models

        half = dict(size=width, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16)
        spread = {"shard_number": self.address.shards, "replication_factor": self.address.replicas}
        vectors = {quote(sense, safe=""): models.VectorParams(**half) for sense in senses}
        try:
            self.client.create_collection(self.name, vectors_config=vectors, **spread)
        except Exception:
            if not self.client.collection_exists(self.name):  # else another rank was first
                raise

    def remove(self, keys: Iterable[str]) -> int:
        from qdrant_client import models

        gone = list(self.stamps(list(keys)))
        for start in range(0, len(gone), PAGE):
            ids = [_id(key) for key in gone[start : start + PAGE]]
            with self._talking():
                self.client.delete(self.name, models.PointIdsList(points=ids), wait=True)
        return len(gone)

    # Asking it

    def find(
        self, query_D: np.ndarray, k: int, senses: Sequence[str], where: Where | None, unsigned: bool
    ) -> list[Found]:
        from qdrant_client import models

        kept = self._filter(where)
        asked = [
            (sense, sign, models.QueryRequest(
                query=(sign * query_D).tolist(), using=quote(sense, safe=""), limit=k, filter=kept, with_payload=True,
                params=models.SearchParams(exact=True) if unsigned and self.address.url else None,
            ))
            for sense in senses
            for sign in ((1, -1) if unsigned else (1,))
        ]  # fmt: skip
        with self._talking():
            answers = self.client.query_batch_points(self.name, [request for *_, request in asked])
        best: dict[str, Found] = {}
        for (sense, *_), answer in zip(asked, answers):
            for point in answer.points:
                key = point.payload["key"]
                if key not in best or point.score > best[key][1]:
                    best[key] = (key, float(point.score), sense, point.payload["labels"])
        return sorted(best.values(), key=lambda hit: (-hit[1], hit[0]))[:k]

    def _filter(self, where: Where | None = None):
        """Records only, and those that pass. Raises AmodalError for unknown labels and values, with the nearest ones."""
        from qdrant_client import models

        if callable(where):
            raise AmodalError(
                "a filter that is a function cannot be sent to a Qdrant server; give labels and what they must be"
            )
        kinds, must = self.card.get("kinds", {}), []
        for name, wanted in (where or {}).items():
            if name not in kinds:
                raise unknown("label in this index", name, kinds)
            if kinds[name] == "number":
                low, high = (None if np.isinf(b) else b for b in bounds(name, wanted))
                must.append(models.FieldCondition(key=_path(name), range=models.Range(gte=low, lte=high)))
                continue
            for choice in choices(wanted):
                self._there(name, choice)
            must.append(models.FieldCondition(key=_path(name), match=models.MatchAny(any=choices(wanted))))
        return models.Filter(must=must, must_not=[models.HasIdCondition(has_id=[CARD])])

    def _there(self, name: str, choice: str) -> None:
        from qdrant_client import models

        has = models.Filter(must=[models.FieldCondition(key=_path(name), match=models.MatchValue(value=choice))])
        with self._talking():
            if not self.client.count(self.name, count_filter=has, exact=True).count:
                values = self.client.facet(self.name, key=_path(name), limit=1000).hits
                raise unknown(f"value of {name}", choice, {str(hit.value) for hit in values})

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """What the client or the server says is wrong, as an error for a person."""
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except AmodalError:
            raise
        except (ApiException, ValueError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            raise AmodalError(
                f"the index in {self.path} cannot be used: {said}. Is the server running there, and QDRANT_API_KEY set if it wants "
                "a key? What was written before is kept; give the same command again."
            ) from error


def _client(address: Address):
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise AmodalError(
            "an index in Qdrant needs its client, which is not installed: pip install 'amodal[qdrant]'"
        ) from None
    if not address.url:
        return _store(address.folder)
    key = os.environ.get("QDRANT_API_KEY")
    return QdrantClient(url=address.url, api_key=key, timeout=60, check_compatibility=False)


@cache
def _store(folder: str):
    """The client's own store, which can be opened but once."""
    from qdrant_client import QdrantClient

    try:
        client = QdrantClient(path=folder)
    except (RuntimeError, OSError) as error:
        raise AmodalError(f"the store in {folder} cannot be opened: {error}") from error
    atexit.register(client.close)  # later, what closing takes is gone
    return client


def _id(key: str) -> str:
    return str(uuid5(NAMES, key))


def _path(label: str) -> str:
    """Of a label in a payload; quoted, as a name may hold dots."""
    return f'labels."{label}"'

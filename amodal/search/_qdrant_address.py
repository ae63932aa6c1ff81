"""Where a Qdrant collection is, and the client that talks to it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from amodal.core import AmodalError, unknown

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

SCHEMES = ("qdrant", "qdrants")


@dataclass(frozen=True)
class Address:
    """`qdrant://HOST:PORT/COLLECTION`, `qdrants://` with TLS; `?shards=6&replicas=2` is how a new
    collection is laid over machines. `qdrant:///FOLDER/COLLECTION`, without a host, is the client's
    own store in a folder: to try it out, slow."""

    url: str
    folder: str
    collection: str
    shards: int | None = None
    replicas: int | None = None

    @staticmethod
    def parse(text: str) -> Address:
        """Read an address. Raises AmodalError."""
        parts, example = urlsplit(text), "qdrant://localhost:6333/photos"
        folder, _, collection = parts.path.rpartition("/")
        if parts.scheme not in SCHEMES or not collection or bool(parts.netloc) == bool(folder):
            raise AmodalError(
                f"{text!r} is not the address of a collection; write it like {example}"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name, value in options.items():
            if name not in ("shards", "replicas"):
                raise unknown("option of a Qdrant address", name, ["shards", "replicas"])
            if not value.isdigit() or int(value) < 1:
                raise AmodalError(f"{name}={value} in {text!r} should be a whole number from 1 on")
        try:
            port = parts.port or 6333
        except ValueError:
            raise AmodalError(
                f"the port in {text!r} is not a number; write it like {example}"
            ) from None
        url = (
            f"{'https' if parts.scheme == 'qdrants' else 'http'}://{parts.hostname}:{port}"
            if parts.netloc
            else ""
        )
        return Address(
            url, folder, collection, **{name: int(value) for name, value in options.items()}
        )


def make_client(address: Address) -> QdrantClient:
    """Connect. Raises AmodalError where the package is missing or a store cannot be opened."""
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise AmodalError(
            "an index in Qdrant needs its client, which is not installed: pip install "
            "'amodal[qdrant]'"
        ) from None
    if not address.url:
        return _store(address.folder)
    key = os.environ.get("QDRANT_API_KEY")
    return QdrantClient(url=address.url, api_key=key, timeout=60, check_compatibility=False)


@cache
def _store(folder: str) -> QdrantClient:
    """The client's local store, which can be opened only once."""
    from qdrant_client import QdrantClient

    try:
        client = QdrantClient(path=folder)
    except (RuntimeError, OSError) as error:
        raise AmodalError(f"the store in {folder} cannot be opened: {error}") from error
    atexit.register(client.close)  # later, the modules that it needs are gone
    return client


@contextmanager
def client_errors(path: str | Path) -> Iterator[None]:
    """Errors of the client and the server as AmodalError. path: of the index, for the message."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except AmodalError:
        raise
    except (ApiException, ValueError, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise AmodalError(
            f"the index in {path} cannot be used: {text}. Is the server running there, and "
            "QDRANT_API_KEY set if it wants a key? What was written before is safe; repeat the "
            "command."
        ) from error

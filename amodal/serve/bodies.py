"""Bodies of requests -> records: JSON, or a form with a part for each field of one record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from amodal.core import AmodalError, unknown
from amodal.inference.query import field_for
from amodal.modalities import Modality
from amodal.modalities.shared.base import shortened
from amodal.nn.encoder import Encoder
from amodal.serve.limits import Limits, Refused
from amodal.serve.values import parse_json

log = logging.getLogger("amodal.serve")

Record = dict[str, Any]
"""field -> bytes or a JSON value, not checked yet."""


def has_no_body(request: Request) -> bool:
    """Whether the headers of a request announce no body."""
    return (
        request.headers.get("content-length", "0") == "0"
        and "transfer-encoding" not in request.headers
    )


async def read_body(request: Request, limits: Limits) -> bytes | Record:
    """The bytes of a JSON body, or the one record of a form. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await _whole(request, limits.json)
    if kind == "multipart/form-data":
        return await _form(request, limits)
    raise Refused(
        415,
        "a body of application/json or multipart/form-data is read, not "
        f"{shortened(kind) or 'of no type'}",
    )


async def _whole(request: Request, max_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise Refused(
                413, f"more than {max_bytes:,} bytes of JSON; send files as multipart/form-data"
            )
        parts.append(part)
    return b"".join(parts)


async def _form(request: Request, limits: Limits) -> Record:
    """The name of a part is the field; its file name is ignored."""
    record: Record = {}
    try:
        async with request.form(max_files=64, max_fields=64, max_part_size=limits.json) as form:
            for name, part in form.multi_items():
                if name in record:
                    raise Refused(
                        400,
                        f"two parts called {shortened(name)!r}; a record has one value of each "
                        "field",
                    )
                record[name] = part.encode("utf-8") if isinstance(part, str) else await part.read()
    except (HTTPException, ClientDisconnect):
        raise
    except (
        MultiPartException,
        UnicodeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        log.warning("a form was not readable: %r", error)
        raise Refused(400, f"not multipart/form-data: {error}") from None
    return record


def parse_records(
    body: bytes | Record, fields: Mapping[str, Modality], limits: Limits
) -> list[Record]:
    """The records of {"records": [...]}, or the one of a form. Raises Refused."""
    if isinstance(body, dict):
        return [_known(body, fields)]
    content = parse_json(body, limits)
    if (
        not isinstance(content, dict)
        or content.keys() != {"records"}
        or not isinstance(content["records"], list)
    ):
        raise Refused(422, 'expected {"records": [{FIELD: VALUE, ...}, ...]}')
    records = content["records"]
    if not records:
        raise Refused(422, "no records")
    if len(records) > limits.records:
        raise Refused(
            413, f"{len(records):,} records in one request; at most {limits.records} are read"
        )
    return [_known(record, fields) for record in records]


def parse_query(body: bytes | Record, encoder: Encoder, limits: Limits) -> Record:
    """The parts of a query, field (or kind) -> value. Raises Refused."""
    content = parse_json(body, limits) if isinstance(body, bytes) else body
    if not isinstance(content, dict):
        raise Refused(422, "expected an object {FIELD: VALUE, ...}")
    try:
        named = [(field_for(encoder, shortened(name)), value) for name, value in content.items()]
    except AmodalError as error:
        raise Refused(422, str(error)) from None
    query = dict(named)
    if len(query) < len(named):
        raise Refused(
            422,
            f"two parts of this query mean the same field; there are {', '.join(encoder.fields)}",
        )
    return _known(query, encoder.fields)


def _known(record: Any, fields: Mapping[str, Modality]) -> Record:
    """The record without fields that are null."""
    if not isinstance(record, dict):
        raise Refused(422, "a record is an object {FIELD: VALUE, ...}")
    for name in record:
        if name not in fields:
            raise Refused(422, str(unknown("field of this encoder", shortened(name), fields)))
    present = {name: value for name, value in record.items() if value is not None}
    if not present:
        raise Refused(422, f"a record without any value; it may have {', '.join(fields)}")
    return present

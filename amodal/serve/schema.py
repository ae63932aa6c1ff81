"""OpenAPI schemas of a server's requests and responses, made from the fields of its encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amodal.modalities import Modality, name_of
from amodal.serve.limits import Limits

Schema = dict[str, Any]

ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
ERRORS = {
    400: "not JSON, not a form, or a parameter that there is not",
    401: "the token is missing or wrong",
    408: "the request came in too slowly",
    413: "larger than the server reads",
    415: "of a type that is not read",
    422: "names that there are not, or values that cannot be read",
    431: "path and headers are too long",
    429: "too much to do; come back soon",
    503: "no answer in time",
}
VECTOR: Schema = {"type": "array", "items": {"type": "number"}}
PREDICTION: Schema = {
    "type": "object",
    "properties": {
        "prediction": {"type": ["string", "number", "null"]},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "required": ["prediction"],
}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}
HIT: Schema = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "score": {"type": "number"},
        "source": {"type": "string"},
        "labels": LABELS,
        "part": {"type": "string"},
        "name": {"type": "string"},
    },
    "required": ["key", "score", "source", "labels", "part", "name"],
}
RECORD: Schema = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "labels": LABELS,
        "fields": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["key", "labels", "fields"],
}


def object_of(**properties: Schema) -> Schema:
    """The schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def array_of(items: Schema) -> Schema:
    """The schema of an array of these items."""
    return {"type": "array", "items": items}


def error_responses(*more: int) -> dict[int | str, Any]:
    """The error responses of a route. more: statuses besides those of every route."""
    texts = ERRORS | {
        404: "there is no such record",
        409: "there is no index yet, or not one for this",
    }
    chosen = sorted({*ERRORS, *more})
    return {
        status: {"description": texts[status], "content": {"application/json": {"schema": ERROR}}}
        for status in chosen
    }


def ok_response(schema: Schema, text: str) -> dict[int | str, Any]:
    """The response of a route that went well. text: what it holds."""
    return {200: {"description": text, "content": {"application/json": {"schema": schema}}}}


def record(fields: Mapping[str, Modality], limits: Limits) -> Schema:
    """The schema of a record, whose fields may be absent."""
    return {
        "type": "object",
        "properties": {name: modality.json_schema(limits) for name, modality in fields.items()},
        "minProperties": 1,
        "additionalProperties": False,
    }


def body(
    fields: Mapping[str, Modality], limits: Limits, *, many: bool, required: bool = True
) -> Schema:
    """The request body: JSON with many records or one, or a form with one."""
    one = record(fields, limits)
    records = object_of(records=array_of(one) | {"minItems": 1, "maxItems": limits.records}) | {
        "additionalProperties": False
    }
    form = {
        name: {"type": "string", "format": "binary"}
        if m.uploads
        else {"type": "string", "minLength": 1}
        for name, m in fields.items()
    }
    content = {
        "application/json": {"schema": records if many else one},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": form,
                "minProperties": 1,
                "additionalProperties": False,
            }
        },
    }
    return {"requestBody": {"required": required, "content": content}}


def about(fields: Mapping[str, Modality]) -> Sequence[Schema]:
    """Name and kind of each field."""
    return [{"name": name, "kind": name_of(modality)} for name, modality in fields.items()]

"""The application: routes, and nothing that they do not share with any other page on the same
server."""

import json
import logging
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import amodal
from amodal.core import AmodalError
from amodal.inference.query import field_for
from amodal.modalities.shared.base import shortened
from amodal.search.query import LIKE
from amodal.serve import schema
from amodal.serve.bodies import body_of, nothing_in, query_in, records_in
from amodal.serve.limits import Limits, Refused
from amodal.serve.metrics import Metrics
from amodal.serve.middleware import Guard
from amodal.serve.page import page
from amodal.serve.service import SPACES, Service, finite, said

log = logging.getLogger("amodal.serve")

MOST_LIKE = 16
"""Records in one query."""

Where = Annotated[
    list[str],
    Query(description="NAME=VALUE: only records whose label has this value; a range is LOW..HIGH"),
]
Fields = Annotated[
    list[str], Query(description="fields of the records to compare with; all unless given")
]
Weights = Annotated[
    list[str],
    Query(
        description="FIELD=NUMBER, or like:KEY=NUMBER: of a part of the query; below 0: unlike it"
    ),
]
Like = Annotated[
    list[str],
    Query(
        max_length=MOST_LIKE, description="KEY of a record of the index: it is a part of the query"
    ),
]


class Json(Response):
    """ASCII, so that no text of a client can break it; numbers that are none are an error of ours."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def app(
    model,
    *,
    index: str | Path | None = None,
    limits: Limits | None = None,
    token: str = "",
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """A model behind an HTTP API. `app.state.service` is what the routes use; more routes and
    static pages may be added to it, and are guarded by the same limits and the same token.

    model: see `amodal.load`; index: the folder to search in, RUN/index unless given (it is read
    again when it changes); limits: what a request may cost; token: that `Authorization: Bearer
    TOKEN` must say, "" for none; hosts: names that requests may call the server by, any unless
    given.
    """
    limits, metrics = limits or Limits(), Metrics()
    service = Service(model, index=index, limits=limits, metrics=metrics)
    fields = model.fields

    made = FastAPI(
        title="amodal",
        version=amodal.__version__,
        description=f"{model.config.get('method', 'an encoder')} with the fields {', '.join(fields)}",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    made.state.service, made.state.metrics = service, metrics
    made.add_middleware(Guard, limits=limits, metrics=metrics, token=token, hosts=hosts)
    _errors(made)
    records = schema.body(fields, limits, many=True)

    def route(
        verb: str,
        path: str,
        answer: schema.Schema,
        text: str,
        *statuses: int,
        takes: dict | None = None,
    ):
        responses = schema.good(answer, text) | schema.refusals(*statuses)
        return getattr(made, verb)(
            path, responses=responses, openapi_extra=takes, response_class=Json
        )

    vectors = schema.thing(
        space={"type": "string", "enum": list(SPACES)},
        records=schema.several({"type": "object", "additionalProperties": schema.VECTOR}),
    )

    @route(
        "post",
        "/embed",
        vectors,
        "of each record, the vector of each source that it has, and `fused`",
        takes=records,
    )
    async def embed(
        request: Request, space: Literal["aligned", "features"] = "aligned"
    ) -> Response:
        """Vectors of records. aligned: the space in which sources are compared; features: what
        probes read."""
        asked = await service.read(records_in, await body_of(request, limits), fields, limits)
        seen = await service.see(asked)
        return await service.read(
            lambda: Json(
                {
                    "space": space,
                    "records": [
                        {s: finite(v).tolist() for s, v in getattr(one, space).items()}
                        for one in seen
                    ],
                }
            )
        )

    @route(
        "post",
        "/search",
        schema.thing(hits=schema.several(schema.HIT)),
        "the nearest records, best first; source is the source that matched",
        404,
        409,
        takes=schema.body(fields, limits, many=False, required=False),
    )
    async def search(
        request: Request,
        k: Annotated[int, Query(ge=1, le=limits.results)] = 10,
        fields: Fields = [],  # noqa: B006
        where: Where = [],  # noqa: B006
        weight: Weights = [],  # noqa: B006
        like: Like = [],  # noqa: B006
    ) -> Response:
        """Records of the index that are near to a query: a value of one source, a record (`like`),
        or several of either together; records that are a part of the query are not found
        themselves."""
        if like and nothing_in(request):
            query = {}
        else:
            query = await service.read(
                query_in, await body_of(request, limits), model.encoder, limits
            )
        weights = {
            _part(model.encoder, name): _number(number)
            for name, number in _pairs(weight, last=True).items()
        }
        chosen = {"fields": fields or None, "where": _pairs(where) or None}
        hits = await service.search(
            query, k=k, weights=weights, like=list(dict.fromkeys(like)), **chosen
        )
        return Json({"hits": [asdict(hit) for hit in hits]})

    if model.head is not None:
        told = schema.thing(
            records=schema.several({"type": "object", "additionalProperties": schema.PREDICTION}),
        )

        @route(
            "post", "/predict", told, "of each record, what each label is told to be", takes=records
        )
        async def predict(request: Request) -> Response:
            """What the run's head tells of records."""
            asked = await service.read(records_in, await body_of(request, limits), fields, limits)
            return Json({"records": [said(service, one) for one in await service.see(asked)]})

    listed = schema.thing(total={"type": "integer"}, records=schema.several(schema.RECORD))

    @route("get", "/records", listed, "how many records there are, and some of them", 409)
    async def list_records(
        start: Annotated[int, Query(ge=0, le=2**53)] = 0,
        count: Annotated[int, Query(ge=1, le=limits.results)] = 100,
        where: Where = [],  # noqa: B006
    ) -> Response:
        """The records of the index, in the order in which they came into it."""
        total, found = await service.list_records(start, count, _pairs(where) or None)
        return Json({"total": total, "records": found})

    @route("get", "/records/{key:path}", schema.RECORD, "one record", 404, 409)
    async def one_record(key: str) -> Response:
        """A record of the index: its labels, and the sources it has."""
        return Json(await service.one_record(key))

    about = schema.thing(
        method={"type": "string"}, fingerprint={"type": "string"}, records={"type": "integer"}
    )

    @route("get", "/model", about, "the model and its index")
    async def about_model() -> Response:
        """What is served: the encoder's fields, what its head tells, and how many records the index
        has."""
        heads = [t.name for t in model.head.targets] if model.head is not None else []
        return Json(
            {
                "method": model.config.get("method", ""),
                "fingerprint": model.fingerprint,
                "fields": schema.about(fields),
                "tells": heads,
                "records": len(await service.records()),
            }
        )

    @made.get(
        "/health",
        responses=schema.good(schema.thing(status={"type": "string"}), "it works"),
        response_class=Json,
    )
    async def health() -> Response:
        """Whether the server answers; open to all."""
        return Json({"status": "ok"})

    @made.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @made.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page(made.openapi())

    return made


def _errors(made: FastAPI) -> None:
    """Every error is {"error": a sentence}."""

    @made.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return Json({"error": error.detail}, error.status_code, error.headers)

    @made.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return Json({"error": shortened(f"{where}: {first['msg']}", 500)}, 422)

    @made.exception_handler(AmodalError)
    async def unusable(_: Request, error: AmodalError) -> Response:
        return Json({"error": shortened(str(error), 500)}, 422)

    @made.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        return Json({"error": "the client hung up"}, 400)

    @made.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> Response:
        return Json({"error": "something went wrong in the server; its log says what"}, 500)


def _pairs(given: list[str], *, last: bool = False) -> dict[str, str]:
    """last: the value begins after the last =, so that a key may hold some."""
    for item in given:
        if "=" not in item:
            raise Refused(422, f"{shortened(item)!r} should be NAME=VALUE")
    return dict(item.rsplit("=", 1) if last else item.split("=", 1) for item in given)


def _part(encoder, name: str) -> str:
    return name if name.startswith(LIKE) else field_for(encoder, name)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise Refused(422, f"a weight is a number, not {shortened(text)!r}") from None
    if not abs(number) <= 1e6:
        raise Refused(422, f"a weight of {shortened(text)}")
    return number

"""The HTTP API: the application and its routes."""

import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import amodal
from amodal.core import AmodalError, unknown
from amodal.inference.query import field_for
from amodal.modalities.shared.base import shortened
from amodal.model import Model
from amodal.nn.encoder import Encoder
from amodal.search.query import LIKE
from amodal.serve import schema
from amodal.serve.bodies import Record, has_no_body, parse_query, parse_records, read_body
from amodal.serve.limits import Limits, Refused
from amodal.serve.metrics import Metrics
from amodal.serve.middleware import LimitsMiddleware
from amodal.serve.page import page
from amodal.serve.service import SPACES, Service, finite, predictions_json

log = logging.getLogger("amodal.serve")

Handler = Callable[..., Awaitable[Response]]

MAX_LIKE = 16
"""Records in one query."""

Where = Annotated[
    list[str],
    Query(description="NAME=VALUE: only records whose label has this value; a range is LOW..HIGH"),
]
Fields = Annotated[
    list[str], Query(description="fields of the records to compare with; all by default")
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
        max_length=MAX_LIKE, description="KEY of a record of the index: it is a part of the query"
    ),
]


class Json(Response):
    """JSON in ASCII, so that no text of a client can break it. NaN is an error of the server."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def app(
    model: Model,
    *,
    index: str | Path | None = None,
    limits: Limits | None = None,
    token: str = "",
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Put a model behind an HTTP API.

    More routes and static pages may be added to the application; they have the same limits and the
    same token. Its `state.service` is what the routes use.

    Args:
        model: See `amodal.load`.
        index: The folder to search in, RUN/index if None; it is opened anew when it changes.
        limits: What a request may cost.
        token: That `Authorization: Bearer TOKEN` must hold, "" for none.
        hosts: Names by which requests may call the server; any if None.
    """
    limits, metrics = limits or Limits(), Metrics()
    service = Service(model, index=index, limits=limits, metrics=metrics)
    fields = model.fields

    made = FastAPI(
        title="amodal",
        version=amodal.__version__,
        description=(
            f"{model.config.get('method', 'an encoder')} with the fields {', '.join(fields)}"
        ),
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    made.state.service, made.state.metrics = service, metrics
    made.add_middleware(LimitsMiddleware, limits=limits, metrics=metrics, token=token, hosts=hosts)
    add_error_handlers(made)
    records = schema.body(fields, limits, many=True)

    def route(
        verb: str,
        path: str,
        response: schema.Schema,
        text: str,
        *statuses: int,
        takes: dict[str, Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        responses = schema.ok_response(response, text) | schema.error_responses(*statuses)

        def add(handler: Handler) -> Handler:
            added: Handler = getattr(made, verb)(
                path,
                responses=responses,
                openapi_extra=takes,
                response_class=Json,
                dependencies=[Depends(_no_others(handler, path))],
            )(handler)
            return added

        return add

    vectors = schema.object_of(
        space={"type": "string", "enum": list(SPACES)},
        records=schema.array_of({"type": "object", "additionalProperties": schema.VECTOR}),
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
        asked = await service.read(parse_records, await read_body(request, limits), fields, limits)
        encoded = await service.encode(asked)
        return await service.read(
            lambda: Json(
                {
                    "space": space,
                    "records": [
                        {s: finite(v).tolist() for s, v in one.in_space(space).items()}
                        for one in encoded
                    ],
                }
            )
        )

    @route(
        "post",
        "/search",
        schema.object_of(hits=schema.array_of(schema.HIT)),
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
        if like and has_no_body(request):
            query: Record = {}
        else:
            query = await service.read(
                parse_query, await read_body(request, limits), model.encoder, limits
            )
        weights = {
            _part(model.encoder, name): _number(number)
            for name, number in _pairs(weight, last=True).items()
        }
        hits = await service.search(
            query,
            k=k,
            weights=weights,
            like=list(dict.fromkeys(like)),
            fields=fields or None,
            where=_pairs(where) or None,
        )
        return Json({"hits": [asdict(hit) for hit in hits]})

    targets = model.head.targets if model.head is not None else ()
    if targets:
        predicted = schema.object_of(
            records=schema.array_of({"type": "object", "additionalProperties": schema.PREDICTION}),
        )

        @route(
            "post",
            "/predict",
            predicted,
            "of each record, the prediction of each label",
            takes=records,
        )
        async def predict(request: Request) -> Response:
            """Predictions of the run's head."""
            asked = await service.read(
                parse_records, await read_body(request, limits), fields, limits
            )
            encoded = await service.encode(asked)
            return Json({"records": [predictions_json(targets, one) for one in encoded]})

    listed = schema.object_of(total={"type": "integer"}, records=schema.array_of(schema.RECORD))

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

    about = schema.object_of(
        method={"type": "string"}, fingerprint={"type": "string"}, records={"type": "integer"}
    )

    @route("get", "/model", about, "the model and its index")
    async def about_model() -> Response:
        """The encoder's fields, the targets of its head, and the number of records in the index."""
        return Json(
            {
                "method": model.config.get("method", ""),
                "fingerprint": model.fingerprint,
                "fields": schema.about(fields),
                "targets": [target.name for target in targets],
                "records": len(await service.records()),
            }
        )

    @made.get(
        "/health",
        responses=schema.ok_response(schema.object_of(status={"type": "string"}), "it works"),
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


def add_error_handlers(made: FastAPI) -> None:
    """Every error is {"error": a sentence}."""

    @made.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        path = shortened(request.url.path)
        words = {"Not Found": f"there is no page {path!r} here"}
        words["Method Not Allowed"] = f"{path!r} takes no {request.method}"
        text = words.get(str(error.detail), error.detail)
        return Json({"error": text}, error.status_code, error.headers)

    @made.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return Json({"error": shortened(mistake(first), 500)}, 422)

    @made.exception_handler(AmodalError)
    async def unusable(_: Request, error: AmodalError) -> Response:
        return Json({"error": shortened(str(error), 500)}, 422)

    @made.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        return Json({"error": "the client hung up"}, 400)

    @made.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> Response:
        return Json({"error": "something went wrong in the server; its log says what"}, 500)


EXPECTED = {
    "missing": "it is needed",
    "int_parsing": "a whole number is expected",
    "int_type": "a whole number is expected",
    "float_parsing": "a number is expected",
    "bool_parsing": "true or false is expected",
    "greater_than": "more than {gt} is expected",
    "greater_than_equal": "{ge} or more is expected",
    "less_than": "less than {lt} is expected",
    "less_than_equal": "{le} or less is expected",
    "too_long": "at most {max_length} of them are taken",
    "literal_error": "{expected} is expected",
}
"""The kind of pydantic's errors -> words for a person."""


def mistake(error: Mapping[str, Any]) -> str:
    """What is wrong with a parameter of a request, by pydantic's account: its name, what it is and
    what is expected."""
    where = ".".join(str(part) for part in error["loc"][1:])
    words = EXPECTED.get(error["type"])
    expected = str(error["msg"]) if words is None else words.format(**error.get("ctx", {}))
    asked = error.get("input")
    instead = f", not {shortened(asked)!r}" if isinstance(asked, str) else ""
    return f"{where}: {expected}{instead}"


def _no_others(handler: Handler, path: str) -> Callable[[Request], Awaitable[None]]:
    """A check that a request has no parameters but those of its route, which FastAPI passes over:
    a misspelt filter would filter nothing."""
    names = [n for n in signature(handler).parameters if n != "request" and f"{{{n}" not in path]
    page = path.partition("{")[0]

    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in names:
                raise Refused(400, str(unknown(f"parameter of {page}", shortened(name), names)))

    return check


def _pairs(items: list[str], *, last: bool = False) -> dict[str, str]:
    """NAME=VALUE -> name: value. last: the value begins after the last =, as keys may hold some."""
    for item in items:
        if "=" not in item:
            raise Refused(422, f"{shortened(item)!r} should be NAME=VALUE")
    return dict(item.rsplit("=", 1) if last else item.split("=", 1) for item in items)


def _part(encoder: Encoder, name: str) -> str:
    return name if name.startswith(LIKE) else field_for(encoder, name)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise Refused(422, f"a weight is a number, not {shortened(text)!r}") from None
    if not abs(number) <= 1e6:
        raise Refused(422, f"a weight of {shortened(text)}")
    return number

"""Search: by values, by records, or a mix of them, in each field and in all."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from torch.nn.functional import normalize

from amodal.modalities.shared.base import shortened
from amodal.serve.bodies import read_body
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Refused
from amodal.serve.service import Service, finite


def add(made: APIRouter, embedding_map: EmbeddingMap, service: Service) -> None:
    @made.post("/view/search")
    async def search(request: Request, k: Annotated[int, Query(ge=1, le=100)] = 12) -> Any:
        """A form: a part for each field, a part `asked` of JSON {"weights": {field: number},
        "records": {number: weight}}."""
        body = await read_body(request, service.limits)
        if not isinstance(body, dict):
            raise Refused(415, "a query is a form with a part for each field")
        weights, records = asked_of(body.pop("asked", b"{}"), len(embedding_map.keys))
        unasked = [name for name in body if name not in service.model.fields]
        if unasked:
            raise Refused(
                422,
                f"there is no field {shortened(unasked[0])!r}; there are "
                f"{', '.join(service.model.fields)}",
            )
        total = torch.zeros(embedding_map.index.width)
        if body:
            for name, encoded in zip(
                body, await service.encode([{name: value} for name, value in body.items()])
            ):
                vector = torch.from_numpy(finite(encoded.aligned[name])).float()
                total += weights.get(name, 1.0) * normalize(vector, dim=0)
        for number, weight in records.items():
            if (stored := embedding_map.vector(number)) is not None:
                total += weight * stored
        if not total.norm() > 1e-6:
            raise Refused(
                422,
                "there is nothing to look for: give a value or a record, and weights that do not "
                "cancel out",
            )

        def ranked() -> dict[str, list[dict[str, Any]]]:
            lists = {"": embedding_map.near(total, (), k)} | {
                s: embedding_map.near(total, (s,), k) for s in embedding_map.fields
            }
            return {
                s: [
                    {"number": n, "key": embedding_map.keys[n], "score": v, "field": by}
                    for n, v, by in found
                ]
                for s, found in lists.items()
            }

        return await asyncio.get_running_loop().run_in_executor(service.searcher, ranked)


def asked_of(raw: bytes, records: int) -> tuple[dict[str, float], dict[int, float]]:
    try:
        content = json.loads(raw)
        weights = {str(k): float(v) for k, v in content.get("weights", {}).items()}
        numbers = {int(k): float(v) for k, v in content.get("records", {}).items()}
    except (ValueError, AttributeError, TypeError):
        raise Refused(
            422, 'expected {"weights": {field: number}, "records": {number: weight}}'
        ) from None
    if not all(abs(v) <= 1e6 for v in (*weights.values(), *numbers.values())):
        raise Refused(422, "weights are numbers, not that large")
    if not all(0 <= n < records for n in numbers):
        raise Refused(404, "there is no such record")
    return weights, numbers

"""How the experts of a sparse encoder divide the fields of records among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from amodal.core import Tokens
from amodal.data import Dataset
from amodal.diagnose.experts import Routing, Row, of_experts, of_fields, routing_of
from amodal.inference.forward_passes import sequential_loader
from amodal.nn.encoder import Encoder
from amodal.nn.experts import sparse_layers

if TYPE_CHECKING:
    from amodal.model import Model

BATCH = 64
ROUTING, EXPERTS = "routing", "experts"


def has_experts(model: Model) -> bool:
    """Whether its encoder is a mixture of experts."""
    return isinstance(model.encoder, Encoder) and bool(model.encoder.experts)


@torch.no_grad()
def use_of_experts(
    model: Model,
    dataset: Dataset,
    indices: Sequence[int] | np.ndarray,
    progress: Callable[[int], object] | None = None,
) -> dict[str, list[Row]]:
    """Route records, and count.

    Args:
        model: One that `has_experts`.
        dataset: Has the fields.
        indices: Which records.
        progress: Called with the number of records just done.

    Returns:
        "routing" -> rows of fields, and "experts" -> rows of experts (`amodal.diagnose.experts`).
        Where there are more routers than one, a row names its router behind a comma.
    """
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    threshold = {
        (trunk, number): layer.threshold
        for trunk, module in encoder.trunks.items()
        for number, layer in enumerate(sparse_layers(module))
    }
    found: dict[tuple[str, int], dict[str, Routing]] = {router: {} for router in threshold}
    for batch in sequential_loader(dataset.select(encoder.fields), indices, BATCH):
        router_logits: dict[tuple[str, int], dict[str, Tokens]] = {}
        encoder.encode(encoder.tokenize(batch.to(model.device)), router_logits=router_logits)
        for router, sources in router_logits.items():
            for source, logits in sources.items():
                counted = routing_of(logits.x, threshold[router])
                before = found[router].get(source)
                found[router][source] = counted if before is None else before + counted
        if progress is not None:
            progress(batch.size)
    rows: dict[str, list[Row]] = {ROUTING: [], EXPERTS: []}
    for (trunk, number), by_field in found.items():
        if by_field:
            name = _name(trunk, number, len(found), len(encoder.trunks))
            rows[ROUTING] += [_named(row, name) for row in of_fields(by_field)]
            rows[EXPERTS] += [_named(row, name) for row in of_experts(by_field)]
    return rows


def _name(trunk: str, number: int, routers: int, trunks: int) -> str:
    """Of a router among several: the number of its sparse block, and its trunk."""
    parts = [f"sparse block {number + 1}"] if routers > trunks else []
    parts += [f"trunk {trunk}"] if trunks > 1 else []
    return " of ".join(parts)


def _named(row: Row, router: str) -> Row:
    return row | {"source": f"{row['source']}, {router}"} if router else row

"""The gradient of one big batch, whatever it is cut into.

Losses may couple rows, so adding up the gradients of micro-batches is not the gradient of the batch. The gradient cache (Gao et
al. 2021, arXiv:2101.06983) makes it so: features of all pieces without a graph, losses once over the whole batch, then each piece
again, with a graph, fed the gradient of its features.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings, Ragged
from amodal.methods._contract import Method
from amodal.train import distributed


def gradients(
    method: Method, batch: Batch, *, micro: int | None = None, precision: AbstractContextManager | None = None
) -> dict[str, Tensor]:
    """Add the batch's gradient to the parameters; returns the losses, detached. micro: rows at once, None for all of them.

    precision: the context that features are computed in; losses are computed in float32.
    """
    precision = precision or nullcontext()
    if micro is None or micro >= batch.size:
        with precision:
            features = method.features(batch)
        terms = method.losses(distributed.gather(full_precision(features)))
        total(terms).backward()
    else:
        pieces = batch.split(micro)
        with torch.no_grad(), precision:
            seen = Embeddings.stack([full_precision(method.features(piece)) for piece in pieces])
        cache, leaves = as_leaves(seen)
        terms = method.losses(distributed.gather(cache))
        total(terms).backward()
        for i, piece in enumerate(pieces):
            with precision:
                again = full_precision(method.features(piece))
            feed(again, leaves, seen, i * micro, i * micro + piece.size)
    distributed.average_gradients(method.parameters())
    return {name: term.detach() for name, term in terms.items()}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def full_precision(features: Embeddings) -> Embeddings:
    """Half precision is for matrix products; what losses see is float32."""
    half = (torch.bfloat16, torch.float16)
    columns = {n: Column(c.values.float(), c.rows) if flat(c).dtype in half else c for n, c in features.columns.items()}
    return Embeddings(columns, features.size)


def flat(column: Column) -> Tensor:
    return column.values.flat if isinstance(column.values, Ragged) else column.values


def as_leaves(features: Embeddings) -> tuple[Embeddings, dict[str, Tensor]]:
    """The same features as the leaves of a new graph, and those leaves."""
    columns, leaves = {}, {}
    for name, column in features.columns.items():
        leaf = flat(column).detach()
        leaves[name] = leaf.requires_grad_(leaf.is_floating_point())
        ragged = isinstance(column.values, Ragged)
        columns[name] = Column(Ragged(leaf, column.values.lengths) if ragged else leaf, column.rows)
    return Embeddings(columns, features.size), leaves


def feed(piece: Embeddings, leaves: dict[str, Tensor], seen: Embeddings, start: int, stop: int) -> None:
    """Send the gradient of the leaves that belong to rows start <= row < stop through the graph of this piece."""
    outputs, grads = [], []
    for name, column in piece.columns.items():
        out = flat(column)
        if not out.requires_grad or leaves[name].grad is None:
            continue
        whole = Column(seen[name].values, seen[name].rows)
        grad = Column(
            Ragged(leaves[name].grad, whole.values.lengths) if isinstance(whole.values, Ragged) else leaves[name].grad,
            whole.rows,
        )
        outputs.append(out)
        grads.append(flat(grad.between(start, stop)))
    if outputs:
        torch.autograd.backward(outputs, grads)

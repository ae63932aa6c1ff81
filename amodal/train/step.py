"""The gradient of one big batch, whatever it is cut into.

Losses may couple rows, so adding up the gradients of micro-batches is not the gradient of the batch. The gradient cache (Gao et
al. 2021, arXiv:2101.06983) makes it so: features of all pieces without a graph, losses once over the whole batch, then each piece
again, with a graph, fed the gradient of its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.core.protocols import CombinesGradients
from amodal.methods.contract import Method
from amodal.train import distributed


def gradients(
    method: Method,
    batch: Batch,
    *,
    micro: int | None = None,
    precision: AbstractContextManager | None = None,
    gather: Callable[[Embeddings], Embeddings] = distributed.gather,
) -> dict[str, Tensor]:
    """Add the batch's gradient to the parameters; returns the losses, detached. micro: rows at once, None for all of them.

    precision: the context that features are computed in; losses are computed in float32. gather: features of this process -> those of all.
    """
    precision = precision or nullcontext()
    if isinstance(method, CombinesGradients):
        return combined(method, batch, micro or batch.size, precision, gather)
    if micro is None or micro >= batch.size:
        with precision:
            features = method.features(batch)
        terms = losses(method, full_precision(features), gather)
        total(terms).backward()
    else:
        seen = without_graph(method, batch, micro, precision)
        cache, leaves = as_leaves(seen)
        terms = losses(method, cache, gather)
        total(terms).backward()
        grads = {name: leaf.grad for name, leaf in leaves.items()}
        for piece, start in pieces(batch, micro):
            with precision:
                again = full_precision(method.features(piece))
            outputs, theirs = matched(again, grads, seen, start, start + piece.size)
            if outputs:
                torch.autograd.backward(outputs, theirs)
    distributed.average_gradients(method.parameters())
    return {name: term.detach() for name, term in terms.items()}


def losses(
    method: Method, features: Embeddings, gather: Callable[[Embeddings], Embeddings] = distributed.gather
) -> dict[str, Tensor]:
    """The losses of the rows of all processes; those that hold the same rows share the work."""
    whole = gather(features)
    with distributed.shared_losses() if gather is distributed.gather else nullcontext():
        return method.losses(whole)


def combined(
    method: Method,
    batch: Batch,
    micro: int,
    precision: AbstractContextManager,
    gather: Callable[[Embeddings], Embeddings] = distributed.gather,
) -> dict[str, Tensor]:
    """As `gradients`, of a method that combines the gradients of its loss terms itself ."""
    learning = [p for p in method.parameters() if p.requires_grad]
    seen = without_graph(method, batch, micro, precision)
    cache, leaves = as_leaves(seen)
    terms = losses(method, cache, gather)
    floats = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    each, of_leaves = {}, {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, [*learning, *floats.values()], retain_graph=True, allow_unused=True)
        each[name] = as_vector(found[: len(learning)], learning)
        of_leaves[name] = dict(zip(floats, found[len(learning) :]))
    for piece, start in pieces(batch, micro):
        with precision:
            again = full_precision(method.features(piece))
        for name in terms:
            outputs, theirs = matched(again, of_leaves[name], seen, start, start + piece.size)
            if outputs:
                found = torch.autograd.grad(outputs, learning, theirs, retain_graph=True, allow_unused=True)
                each[name] = each[name] + as_vector(found, learning)
    assert isinstance(method, CombinesGradients)
    vector = method.combine_gradients({name: distributed.mean(v) for name, v in each.items()})
    for p, part in zip(learning, vector.split([p.numel() for p in learning])):
        p.grad = part.view_as(p) if p.grad is None else p.grad + part.view_as(p)
    return {name: term.detach() for name, term in terms.items()}


def as_vector(grads: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """(P,) all gradients end to end, zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters)])


def pieces(batch: Batch, micro: int) -> Iterator[tuple[Batch, int]]:
    """Micro-batches, and the row each begins with."""
    for i, piece in enumerate(batch.split(micro)):
        yield piece, i * micro


@torch.no_grad()
def without_graph(method: Method, batch: Batch, micro: int, precision: AbstractContextManager) -> Embeddings:
    """The features of the batch, piece by piece."""
    with precision:
        return Embeddings.stack([full_precision(method.features(piece)) for piece, _ in pieces(batch, micro)])


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def full_precision(features: Embeddings) -> Embeddings:
    """Half precision is for matrix products; what losses see is float32."""
    half = (torch.bfloat16, torch.float16)
    columns = {n: c.with_flat(c.flat.float()) if c.flat.dtype in half else c for n, c in features.columns.items()}
    return Embeddings(columns, features.size)


def as_leaves(features: Embeddings) -> tuple[Embeddings, dict[str, Tensor]]:
    """The same features as the leaves of a new graph, and those leaves."""
    columns, leaves = {}, {}
    for name, column in features.columns.items():
        leaf = column.flat.detach()
        leaves[name] = leaf.requires_grad_(leaf.is_floating_point())
        columns[name] = column.with_flat(leaf)
    return Embeddings(columns, features.size), leaves


def matched(
    piece: Embeddings, grads: Mapping[str, Tensor | None], seen: Embeddings, start: int, stop: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The features of rows start <= row < stop that have a graph, and for each the part of its leaf's gradient that is theirs."""
    outputs, theirs = [], []
    for name, column in piece.columns.items():
        out, grad = column.flat, grads.get(name)
        if not out.requires_grad or grad is None:
            continue
        outputs.append(out)
        theirs.append(seen[name].with_flat(grad).between(start, stop).flat)
    return outputs, theirs

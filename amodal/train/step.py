"""The gradient of one big batch, whatever it is cut into.

Losses may couple rows, so adding up the gradients of micro-batches is not the gradient of the
batch. The gradient cache (Gao et al. 2021, arXiv:2101.06983) makes it so: features of all pieces
without a graph, losses once over the whole batch, then each piece again, with a graph, fed the
gradient of its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amodal.core import Batch
from amodal.core.features import Features, stack_features
from amodal.core.protocols import CombinesGradients
from amodal.methods.contract import Method
from amodal.nn.drop_path import drop_paths
from amodal.train import distributed
from amodal.train.gradient_sync import GradientSync
from amodal.train.players import Players

Gather = Callable[[Features], Features]
Split = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Terms of the loss -> scalars whose gradients are computed apart."""


@dataclass(frozen=True)
class Passes:
    """How a batch is run through a method.

    micro: rows at once, None for all of them. precision: the context that features are computed in;
    losses are computed in float32. gather: features of this process -> those of all. drop_path: see
    `amodal.nn.drop_path`.
    """

    micro: int | None = None
    precision: AbstractContextManager = field(default_factory=nullcontext)
    gather: Gather = distributed.gather
    drop_path: float = 0.0

    def features(self, method: Method, batch: Batch) -> Features:
        """What the losses need of these rows, in the precision it is computed in."""
        with self.precision, drop_paths(self.drop_path, batch.seeds):
            return method.features(batch)

    def whole(self, batch: Batch) -> bool:
        """Whether the batch is run through at once."""
        return self.micro is None or self.micro >= batch.size


def gradients(
    method: Method,
    batch: Batch,
    *,
    micro: int | None = None,
    precision: AbstractContextManager | None = None,
    gather: Gather = distributed.gather,
    drop_path: float = 0.0,
    players: Players | None = None,
) -> dict[str, Tensor]:
    """Add the batch's gradient to the parameters.

    Args:
        micro, precision, gather, drop_path: see `Passes`.
        players: whose terms change their own parameters only; None where the sum of all terms is
            minimised.

    Returns:
        The losses, detached.
    """
    passes = Passes(micro, precision or nullcontext(), gather, drop_path)
    if isinstance(method, CombinesGradients):
        return combined(method, batch, passes)
    if players is not None:
        return of_players(method, batch, passes, players)
    if passes.whole(batch) and distributed.world() == 1:
        features = passes.features(method, batch)
        terms = losses(method, full_precision(features), gather)
        total(terms).backward()
    else:
        terms = in_two_passes(method, batch, passes)
    return {name: term.detach() for name, term in terms.items()}


def in_two_passes(method: Method, batch: Batch, passes: Passes) -> dict[str, Tensor]:
    """Gradients of the losses with respect to the features, then those of the features.

    With micro-batches the features are computed twice, so that no graph of the whole batch is held.
    With several ranks the second pass has no communication of the losses in it, so gradients are
    averaged while it goes on.

    Returns:
        The terms of the loss.
    """
    once = passes.whole(batch)
    if once:
        seen = full_precision(passes.features(method, batch))
    else:
        seen = without_graph(method, batch, passes)
    cache, leaves = as_leaves(seen)
    terms = losses(method, cache, passes.gather)
    total(terms).backward()
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    sync = GradientSync(method.parameters()) if distributed.world() > 1 else None
    for piece, start in pieces(batch, passes.micro or batch.size):
        stop = start + piece.size
        piece_features = seen if once else full_precision(passes.features(method, piece))
        outputs, theirs = matched(piece_features, grads, seen, start, stop)
        is_last = stop >= batch.size
        with sync.during() if sync is not None and is_last else nullcontext():
            if outputs:
                torch.autograd.backward(outputs, theirs)
    if sync is not None:
        sync.finish()
    return terms


def losses(
    method: Method, features: Features, gather: Callable[[Features], Features] = distributed.gather
) -> dict[str, Tensor]:
    """The losses of the rows of all processes; those that hold the same rows share the work."""
    whole = gather(features)
    with distributed.shared_losses() if gather is distributed.gather else nullcontext():
        return method.losses(whole)


def combined(method: Method, batch: Batch, passes: Passes) -> dict[str, Tensor]:
    """As `gradients`, of a method that combines the gradients of its loss terms itself."""
    learning = [p for p in method.parameters() if p.requires_grad]
    terms, grads = separate(method, batch, passes, lambda terms: terms, lambda name: learning)
    each = {name: as_vector(found, learning) for name, found in grads.items()}
    assert isinstance(method, CombinesGradients)
    vector = method.combine_gradients({name: distributed.mean(v) for name, v in each.items()})
    for p, part in zip(learning, vector.split([p.numel() for p in learning])):
        p.grad = part.view_as(p) if p.grad is None else p.grad + part.view_as(p)
    return terms


def of_players(method: Method, batch: Batch, passes: Passes, players: Players) -> dict[str, Tensor]:
    """As `gradients`, of a game.

    The terms of a player give a gradient to its own parameters only.
    """
    parameters = {
        prefix: [p for p in own if p.requires_grad] for prefix, own in players.parameters().items()
    }
    terms, grads = separate(method, batch, passes, players.total_of, parameters.__getitem__)
    for prefix, found in grads.items():
        for p, grad in zip(parameters[prefix], found):
            p.grad = grad if p.grad is None or grad is None else p.grad + grad
    distributed.average_gradients(method.parameters())
    return terms


Grads = list[Tensor | None]


def separate(
    method: Method, batch: Batch, passes: Passes, split: Split, parameters: Callable[[str], list]
) -> tuple[dict[str, Tensor], dict[str, Grads]]:
    """The gradient of each scalar that `split` makes of the terms, with respect to the parameters
    of its name.

    Features are computed twice, without a graph and then piece by piece with one.

    Returns:
        The terms, detached; name of a scalar -> gradients, None where it does not depend on a
        parameter.
    """
    seen = without_graph(method, batch, passes)
    cache, leaves = as_leaves(seen)
    terms = losses(method, cache, passes.gather)
    floats = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads: dict[str, Grads] = {}
    of_leaves: dict[str, dict[str, Tensor | None]] = {}
    for name, scalar in split(terms).items():
        own = parameters(name)
        found = torch.autograd.grad(
            scalar, [*own, *floats.values()], retain_graph=True, allow_unused=True
        )
        grads[name] = list(found[: len(own)])
        of_leaves[name] = dict(zip(floats, found[len(own) :]))
    for piece, start in pieces(batch, passes.micro or batch.size):
        second = full_precision(passes.features(method, piece))
        for name in grads:
            outputs, theirs = matched(second, of_leaves[name], seen, start, start + piece.size)
            if outputs:
                found = torch.autograd.grad(
                    outputs, parameters(name), theirs, retain_graph=True, allow_unused=True
                )
                grads[name] = [_sum(a, b) for a, b in zip(grads[name], found)]
    return {name: term.detach() for name, term in terms.items()}, grads


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def as_vector(grads: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """(P,) all gradients end to end, zeros where there is none."""
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters)]
    )


def pieces(batch: Batch, micro: int) -> Iterator[tuple[Batch, int]]:
    """Micro-batches, and the row each begins with."""
    for i, piece in enumerate(batch.split(micro)):
        yield piece, i * micro


@torch.no_grad()
def without_graph(method: Method, batch: Batch, passes: Passes) -> Features:
    """The features of the batch, piece by piece."""
    split = pieces(batch, passes.micro or batch.size)
    return stack_features([full_precision(passes.features(method, piece)) for piece, _ in split])


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def full_precision(features: Features) -> Features:
    """Half precision is for matrix products; what losses see is float32."""
    half = (torch.bfloat16, torch.float16)
    columns = {
        n: c.with_flat(c.flat.float()) if c.flat.dtype in half else c
        for n, c in features.columns.items()
    }
    return features.with_columns(columns, features.size)


def as_leaves(features: Features) -> tuple[Features, dict[str, Tensor]]:
    """The same features as the leaves of a new graph, and those leaves."""
    columns, leaves = {}, {}
    for name, column in features.columns.items():
        leaf = column.flat.detach()
        leaves[name] = leaf.requires_grad_(leaf.is_floating_point())
        columns[name] = column.with_flat(leaf)
    return features.with_columns(columns, features.size), leaves


def matched(
    piece: Features, grads: Mapping[str, Tensor | None], seen: Features, start: int, stop: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The features of rows start <= row < stop that have a graph, and for each the part of its
    leaf's gradient that is theirs.
    """
    outputs, theirs = [], []
    for name, column in piece.columns.items():
        out, grad = column.flat, grads.get(name)
        if not out.requires_grad or grad is None:
            continue
        outputs.append(out)
        theirs.append(seen[name].with_flat(grad).between(start, stop).flat)
    return outputs, theirs

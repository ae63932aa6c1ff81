"""The gradient of one big batch, however it is split into micro-batches.

Losses may couple rows, so summing the gradients of micro-batches is not the gradient of the batch.
The gradient cache (Gao et al. 2021, arXiv:2101.06983) makes it exact: features of all micro-batches
without a graph, losses once over the whole batch, then each micro-batch a second time with a graph,
which receives the gradient of its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch
from amodal.core.features import Features, stack_features
from amodal.core.protocols import CombinesGradients
from amodal.methods.contract import Method
from amodal.nn.batch_norm import AllReduce, active_norms, batch_statistics
from amodal.nn.drop_path import drop_paths
from amodal.train import distributed
from amodal.train.gradient_sync import GradientSync
from amodal.train.players import Players

Gather = Callable[[Features], Features]
Split = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Terms of the loss -> scalars whose gradients are computed separately."""
Grads = list[Tensor | None]


@dataclass(frozen=True)
class ForwardPass:
    """How a batch is run through a method.

    Args:
        micro: Rows of a micro-batch; None for the whole batch at once.
        precision: The context that features are computed in. Losses are computed in float32.
        gather: The features of this process -> those of all processes.
        drop_path: See `amodal.nn.drop_path`.
    """

    micro: int | None = None
    precision: AbstractContextManager[object] = field(default_factory=nullcontext)
    gather: Gather = distributed.gather
    drop_path: float = 0.0

    def features(self, method: Method, batch: Batch, *, updates: bool = True) -> Features:
        """The features of some rows, in the precision they are computed in.

        Args:
            updates: Running statistics follow; False for all passes over a batch but one.
        """
        with (
            self.precision,
            drop_paths(self.drop_path, batch.seeds),
            batch_statistics(self._all_reduce(), updates=updates),
        ):
            return method.features(batch)

    def _all_reduce(self) -> AllReduce | None:
        """Sums over the ranks of the batch; None for a batch of one process."""
        many = self.gather is distributed.gather and distributed.world() > 1
        return distributed.all_reduce_sum if many else None

    def is_whole(self, batch: Batch) -> bool:
        """Whether the batch is not split."""
        return self.micro is None or self.micro >= batch.size


def gradients(
    method: Method,
    batch: Batch,
    *,
    micro: int | None = None,
    precision: AbstractContextManager[object] | None = None,
    gather: Gather = distributed.gather,
    drop_path: float = 0.0,
    players: Players | None = None,
) -> dict[str, Tensor]:
    """Add the gradient of the batch to the parameters.

    Args:
        micro, precision, gather, drop_path: See `ForwardPass`.
        players: Each player's loss terms give a gradient to its own parameters only. None where
            the sum of all terms is minimised.

    Returns:
        The terms of the loss, detached.
    """
    forward = ForwardPass(micro, precision or nullcontext(), gather, drop_path)
    if not forward.is_whole(batch):
        refuse_batch_statistics(method, micro)
    if isinstance(method, CombinesGradients):
        return combined_gradients(method, batch, forward)
    if players is not None:
        return player_gradients(method, batch, forward, players)
    # one graph and one backward pass: there is nothing to cut, and nothing to average
    if forward.is_whole(batch) and distributed.world() == 1:
        terms = losses(method, full_precision(forward.features(method, batch)), gather)
        torch.autograd.backward(total(terms))
    else:
        terms = in_two_passes(method, batch, forward)
    return {name: term.detach() for name, term in terms.items()}


def in_two_passes(method: Method, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
    """Gradients of the losses with respect to the features, then those of the features.

    With micro-batches the features are computed twice, so that no graph of the whole batch is held.
    With several ranks the second pass has no communication of the losses in it, so gradients are
    averaged while it goes on.

    Returns:
        The terms of the loss.
    """
    once = forward.is_whole(batch)
    if once:
        cached = full_precision(forward.features(method, batch))
    else:
        cached = without_graph(method, batch, forward)
    features, leaves = as_leaves(cached)
    terms = losses(method, features, forward.gather)
    # ends at the leaves, where it leaves the gradient by the features of this rank's rows
    torch.autograd.backward(total(terms))
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    sync = GradientSync(method.parameters()) if distributed.world() > 1 else None
    # batch statistics are summed over ranks in the backward pass too. Two kinds of sums under way
    # at once may be started in another order on another rank, so gradients wait for its end.
    overlaps = sync is not None and not active_norms(method)
    for piece, start in micro_batches(batch, forward.micro or batch.size):
        stop = start + piece.size
        piece_features = cached if once else full_precision(forward.features(method, piece))
        outputs, output_grads = matched(piece_features, grads, cached, start, stop)
        # before the last pass gradients are not whole yet
        is_last = stop >= batch.size
        with sync.during() if sync is not None and overlaps and is_last else nullcontext():
            if outputs:
                torch.autograd.backward(outputs, output_grads)
    if sync is not None:
        sync.finish()
    return terms


def losses(
    method: Method, features: Features, gather: Gather = distributed.gather
) -> dict[str, Tensor]:
    """The losses over the rows of all processes. Processes with the same rows share the work."""
    whole = gather(features)
    with distributed.shared_losses() if gather is distributed.gather else nullcontext():
        # a method takes the type of features that it returns
        return method.losses(cast(Any, whole))


def combined_gradients(method: Method, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
    """As `gradients`, of a method that combines the gradients of its loss terms itself."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    terms, grads = separate_gradients(
        method, batch, forward, split=lambda terms: terms, parameters=lambda name: parameters
    )
    vectors_P = {name: as_vector(found, parameters) for name, found in grads.items()}
    assert isinstance(method, CombinesGradients)
    step_P = method.combine_gradients({n: distributed.mean(v) for n, v in vectors_P.items()})
    for p, part in zip(parameters, torch.split(step_P, [p.numel() for p in parameters])):
        p.grad = part.view_as(p) if p.grad is None else p.grad + part.view_as(p)
    return terms


def player_gradients(
    method: Method, batch: Batch, forward: ForwardPass, players: Players
) -> dict[str, Tensor]:
    """As `gradients`, of a game: a player's loss terms change its own parameters only."""
    parameters = {
        prefix: [p for p in of_player if p.requires_grad]
        for prefix, of_player in players.parameters().items()
    }
    terms, grads = separate_gradients(
        method, batch, forward, split=players.total_of, parameters=parameters.__getitem__
    )
    for prefix, of_player in grads.items():
        for p, grad in zip(parameters[prefix], of_player):
            p.grad = grad if p.grad is None or grad is None else p.grad + grad
    if distributed.world() > 1:
        GradientSync(method.parameters()).finish()
    return terms


def separate_gradients(
    method: Method,
    batch: Batch,
    forward: ForwardPass,
    *,
    split: Split,
    parameters: Callable[[str], Sequence[nn.Parameter]],
) -> tuple[dict[str, Tensor], dict[str, Grads]]:
    """The gradient of each scalar that `split` makes of the loss terms.

    Features are computed twice, without a graph and then per micro-batch with one.

    Args:
        parameters: Name of a scalar -> the parameters to differentiate it by.

    Returns:
        The terms, detached; and name of a scalar -> gradients, None where it does not depend on a
        parameter.
    """
    cached = without_graph(method, batch, forward)
    features, leaves = as_leaves(cached)
    terms = losses(method, features, forward.gather)
    floats = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads: dict[str, Grads] = {}
    leaf_grads: dict[str, dict[str, Tensor | None]] = {}
    for name, scalar in split(terms).items():
        wanted = parameters(name)
        # retained: all terms are of one graph
        result = torch.autograd.grad(
            scalar, [*wanted, *floats.values()], retain_graph=True, allow_unused=True
        )
        grads[name] = list(result[: len(wanted)])
        leaf_grads[name] = dict(zip(floats, result[len(wanted) :]))
    for piece, start in micro_batches(batch, forward.micro or batch.size):
        piece_features = full_precision(forward.features(method, piece))
        for name in grads:
            outputs, output_grads = matched(
                piece_features, leaf_grads[name], cached, start, start + piece.size
            )
            if outputs:
                result = torch.autograd.grad(
                    outputs, parameters(name), output_grads, retain_graph=True, allow_unused=True
                )
                grads[name] = [_sum(a, b) for a, b in zip(grads[name], result)]
    return {name: term.detach() for name, term in terms.items()}, grads


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def as_vector(grads: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """(P,) all gradients concatenated, zeros where there is none."""
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters)]
    )


def micro_batches(batch: Batch, rows: int) -> Iterator[tuple[Batch, int]]:
    """Micro-batches of `rows` rows, each with the number of its first row."""
    for i, piece in enumerate(batch.split(rows)):
        yield piece, i * rows


@torch.no_grad()
def without_graph(method: Method, batch: Batch, forward: ForwardPass) -> Features:
    """The features of the batch, computed per micro-batch."""
    split = micro_batches(batch, forward.micro or batch.size)
    return stack_features(
        [full_precision(forward.features(method, piece, updates=False)) for piece, _ in split]
    )


def refuse_batch_statistics(method: Method, micro: int | None) -> None:
    """Raise AmodalError for micro-batches of a method whose backbones use batch statistics."""
    if micro is not None and active_norms(method):
        raise AmodalError(
            f"micro-batches of {micro} rows cannot have the batch statistics of the whole batch: a "
            "backbone that is trained has BatchNorm, and each of its layers needs the values of "
            "all rows before the next layer can begin. Leave micro_batch_size out and take a "
            "smaller batch, divide the batch among more processes (statistics are over all of "
            "them), or take a backbone that normalises each row: convnet:norm=group, "
            "resnet1d:norm=layer, timm:convnext_atto, timm:resnet50_gn"
        )


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def full_precision(features: Features) -> Features:
    """The features in float32: half precision is for matrix products, not for losses."""
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
    piece: Features, grads: Mapping[str, Tensor | None], cached: Features, start: int, stop: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a micro-batch and their gradients, as `torch.autograd.backward` takes them.

    Args:
        piece: The features of rows start <= row < stop, some of which have a graph.
        grads: Column -> the gradient of its leaf, for the whole batch.
        cached: The features of the whole batch.
    """
    outputs, output_grads = [], []
    for name, column in piece.columns.items():
        out, grad = column.flat, grads.get(name)
        if not out.requires_grad or grad is None:
            continue
        outputs.append(out)
        # as a column like `cached`, whose rows say what of it belongs to this piece, lists whole
        output_grads.append(cached[name].with_flat(grad).between(start, stop).flat)
    return outputs, output_grads

"""Losses of three and more sources in one term: TensorCLIP and Barlow Twins of many ways.

Moro et al., Newton 2025, arXiv:2312.00111 (MultiMat; the losses are in its appendix and its code).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

CELLS = 2**22
"""Entries of the logit tensor that are made at once."""
HELD = 2**25
"""Entries up to which all blocks are held for the backward pass, which is faster; beyond, it makes
them again."""


@full_precision
def tensor_clip(
    sources: Sequence[Tensor], *, temperature: float | Tensor, half: bool = False, tuples: int = 128
) -> Tensor:
    """Mean over sources and rows i of -log softmax of T_i... at (i, …, i), T_ijk = sum_d a_id b_jd
    c_kd / temperature of unit vectors.

    sources:       W >= 2 tensors (N, D), row i of all being one record. Of two it is the symmetric
                   InfoNCE.
    temperature:  a number, or a scalar tensor that gets a gradient.
    half:         (three sources) entries where two of the indices agree count as positives of half
                  weight, and the sum below goes only
                  over entries where all three differ.
    tuples:       T has N^W entries, so rows compete in blocks of at most so many neighbours: N *
                  tuples^(W - 1) products. Of more
                  than HELD in all, and of a block of more than CELLS, no more than a block or a
                  tile is held.

    Blocks of too few rows to have a negative (two; three with `half`) have no term; without any
    block, a connected 0. Raises ValueError for unequal shapes, fewer than two sources, and `half`
    with other than three.
    """
    _check("tensor_clip", sources)
    check_positive("temperature", temperature)
    if half and len(sources) != 3:
        raise ValueError(f"half weights are for three sources, got {len(sources)}.")
    unit, least, total, counted = [F.normalize(z, dim=1) for z in sources], 3 if half else 2, [], 0
    again = len(unit[0]) * tuples ** (len(sources) - 1) > HELD and torch.is_grad_enabled()
    for block in zip(*(u.split(tuples) for u in unit)):
        if len(block[0]) >= least:
            total += (
                (_again if again else _whole)(block, temperature)
                if len(block[0]) ** len(block) <= CELLS and not half
                else [
                    _axis(block[w], (*block[:w], *block[w + 1 :]), temperature, half)
                    for w in range(len(block))
                ]
            )
            counted += len(block[0])
    if not counted:
        return connected_zero(*sources, temperature)
    return torch.stack(total).sum() / (counted * len(sources))


def _whole(block: Sequence[Tensor], temperature: float | Tensor) -> list[Tensor]:
    """The cross-entropies along all axes, from one tensor that is held whole."""
    logits, own = _logits(block, temperature), torch.arange(len(block[0]), device=block[0].device)
    right = logits[(own,) * len(block)].sum()
    return [logits.movedim(w, 0).flatten(1).logsumexp(1).sum() - right for w in range(len(block))]


def _again(block: Sequence[Tensor], temperature: float | Tensor) -> list[Tensor]:
    """`_whole`, whose tensor is made once more in the backward pass instead of being held until
    then."""
    return checkpoint(_whole, block, temperature, use_reentrant=False, preserve_rng_state=False)


def _logits(sources: Sequence[Tensor], temperature: float | Tensor) -> Tensor:
    """(N_1, …, N_W) sum over dimensions of the products of W vectors, over the temperature."""
    product = sources[0] / temperature
    for other in sources[1:-1]:
        product = (product[:, None] * other).flatten(0, 1)
    return (product @ sources[-1].T).view(*map(len, sources))


def _axis(
    first_ND: Tensor, rest: Sequence[Tensor], temperature: float | Tensor, half: bool
) -> Tensor:
    """Sum over the rows of one block of the cross-entropy along the axis of `first_ND`."""
    rows = len(first_ND)
    tile = max(1, CELLS // rows ** len(rest))

    def losses(some, own):
        logits = _logits((some, *rest), temperature)
        if half:
            return _half(logits, own)
        index = (torch.arange(len(some), device=own.device), *[own] * len(rest))
        return logits.flatten(1).logsumexp(1) - logits[index]

    return by_rows(losses, first_ND, torch.arange(rows, device=first_ND.device), tile=tile).sum()


def _half(logits_iNN: Tensor, own_i: Tensor) -> Tensor:
    number = torch.arange(logits_iNN.shape[1], device=own_i.device)
    i, j, k = own_i[:, None, None], number[:, None], number
    same = (i == j).long() + (i == k) + (j == k)  # 3 for all alike, 1 where two are
    weight = torch.where(same == 3, 1.0, 0.5 * (same == 1)).to(logits_iNN.dtype)
    below = logits_iNN.masked_fill(same > 0, -torch.inf).flatten(1).logsumexp(1)
    return below * weight.sum((1, 2)) - (logits_iNN * weight).sum((1, 2))


@full_precision
def barlow_ways(
    sources: Sequence[Tensor], *, off_diagonal: float = 5.1e-3, tile: int = 256
) -> Tensor:
    """sum_d (1 - C_d..d)^2 + off_diagonal * (the sum of all other C^2), C_jkl = mean_i a_ij b_ik
    c_il of standardised dimensions.

    sources:        W >= 2 tensors (N, D), row i of all being one record. Of two it is Barlow Twins.
    off_diagonal:  the paper's lambda.
    tile:          rows of an N x N matrix that are held at once.

    The D^W tensor is not formed: the sum of its squares is that of prod_w <z_i^w, z_j^w> over i and
    j. Fewer than two rows give a connected 0. Raises ValueError for unequal shapes and fewer than
    two sources.
    """
    _check("barlow_ways", sources)
    rows = len(sources[0])
    if rows < 2:
        return connected_zero(*sources)
    z = [F.batch_norm(s, None, None, training=True, eps=1e-5) for s in sources]

    def squares(*some):
        product = some[0] @ z[0].T
        for a, b in zip(some[1:], z[1:]):
            product = product * (a @ b.T)
        return product.sum(1)

    diagonal = torch.stack(z).prod(0).mean(0)
    every = by_rows(squares, *z, tile=tile).sum() / rows**2
    return (1 - diagonal).square().sum() + off_diagonal * (every - diagonal.square().sum())


def _check(name: str, sources: Sequence[Tensor]) -> None:
    if len(sources) < 2:
        raise ValueError(f"{name} compares at least two sources, got {len(sources)}.")
    for other in sources[1:]:
        check_pair(name, sources[0], other)

"""Losses of three and more sources in one term: TensorCLIP and multi-way Barlow Twins.

Moro et al., Newton 2025, arXiv:2312.00111 (MultiMat; the losses are in its appendix and its code).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

MAX_LOGITS = 2**22
"""Entries of the logit tensor that are computed at a time."""
MAX_RETAINED = 2**25
"""Entries up to which all blocks are held for the backward pass, which is faster."""


@full_precision
def tensor_clip(
    sources: Sequence[Tensor], *, temperature: float | Tensor, half: bool = False, tuples: int = 128
) -> Tensor:
    """InfoNCE on the logit tensor of W sources.

        T_{ij…} = sum_d a_id b_jd … / temperature, of unit vectors
        L = mean over sources and rows i of -log softmax(T_{i…})_{(i, …, i)}

    T has N^W entries, so rows compete in blocks of at most `tuples` neighbours: N tuples^(W - 1)
    products. Beyond MAX_RETAINED in all, the backward pass computes blocks again. Of a block
    beyond MAX_LOGITS only a tile is held. With W = 2 it is the symmetric InfoNCE.

    Args:
        sources: W >= 2 tensors (N, D), row i of all being one record; normalised here.
        temperature: a number, or a scalar tensor that gets a gradient.
        half: (three sources) entries with two equal indices count as positives of weight one
            half, and the normaliser runs only over entries with three different indices.
        tuples: rows of a block.

    Returns:
        A scalar. Blocks without a negative (fewer than two rows; three with `half`) have no term.
        Without any block: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, there are fewer than two sources, `half` with other than
            three, or `temperature` is not above 0.
    """
    _check("tensor_clip", sources)
    check_positive("temperature", temperature)
    if half and len(sources) != 3:
        raise ValueError(f"half weights are for three sources, got {len(sources)}.")
    unit, least, total, rows_counted = (
        [F.normalize(z, dim=1) for z in sources],
        3 if half else 2,
        [],
        0,
    )
    recompute = (
        len(unit[0]) * tuples ** (len(sources) - 1) > MAX_RETAINED and torch.is_grad_enabled()
    )
    for block in zip(*(u.split(tuples) for u in unit)):
        if len(block[0]) >= least:
            total += (
                (_dense_recomputed if recompute else _dense)(block, temperature)
                if len(block[0]) ** len(block) <= MAX_LOGITS and not half
                else [
                    _axis(block[w], (*block[:w], *block[w + 1 :]), temperature, half)
                    for w in range(len(block))
                ]
            )
            rows_counted += len(block[0])
    if not rows_counted:
        return connected_zero(*sources, temperature)
    return torch.stack(total).sum() / (rows_counted * len(sources))


def _dense(block: Sequence[Tensor], temperature: float | Tensor) -> list[Tensor]:
    """Cross-entropies along all axes, from one tensor that is held whole."""
    logits = _logits(block, temperature)
    diagonal = torch.arange(len(block[0]), device=block[0].device)
    right = logits[(diagonal,) * len(block)].sum()
    return [logits.movedim(w, 0).flatten(1).logsumexp(1).sum() - right for w in range(len(block))]


def _dense_recomputed(block: Sequence[Tensor], temperature: float | Tensor) -> list[Tensor]:
    """`_dense`, computed again in the backward pass instead of being held."""
    terms: list[Tensor] = checkpoint(
        _dense, block, temperature, use_reentrant=False, preserve_rng_state=False
    )
    return terms


def _logits(sources: Sequence[Tensor], temperature: float | Tensor) -> Tensor:
    """(N_1, …, N_W) sums over dimensions of products of W vectors, over the temperature."""
    product = sources[0] / temperature
    for other in sources[1:-1]:
        product = (product[:, None] * other).flatten(0, 1)
    return (product @ sources[-1].T).view(*map(len, sources))


def _axis(
    first_ND: Tensor, rest: Sequence[Tensor], temperature: float | Tensor, half: bool
) -> Tensor:
    """Sum over the rows of a block of the cross-entropy along the axis of `first_ND`."""
    rows = len(first_ND)
    tile = max(1, MAX_LOGITS // rows ** len(rest))

    def losses(tiles: Tensor, diagonal: Tensor) -> Tensor:
        logits = _logits((tiles, *rest), temperature)
        if half:
            return _half(logits, diagonal)
        index = (torch.arange(len(tiles), device=diagonal.device), *[diagonal] * len(rest))
        return logits.flatten(1).logsumexp(1) - logits[index]

    return by_rows(losses, first_ND, torch.arange(rows, device=first_ND.device), tile=tile).sum()


def _half(logits_iNN: Tensor, index_i: Tensor) -> Tensor:
    column = torch.arange(logits_iNN.shape[1], device=index_i.device)
    i, j, k = index_i[:, None, None], column[:, None], column
    same = (i == j).long() + (i == k) + (j == k)  # 3 for all alike, 1 where two are
    weight = torch.where(same == 3, 1.0, 0.5 * (same == 1)).to(logits_iNN.dtype)
    log_sum = logits_iNN.masked_fill(same > 0, -torch.inf).flatten(1).logsumexp(1)
    return log_sum * weight.sum((1, 2)) - (logits_iNN * weight).sum((1, 2))


@full_precision
def multi_barlow_twins(
    sources: Sequence[Tensor], *, off_diagonal: float = 5.1e-3, tile: int = 256
) -> Tensor:
    """Barlow Twins of W sources, on the correlation tensor of standardised dimensions.

        C_jkl = mean_i a_ij b_ik c_il
        L = sum_d (1 - C_d..d)^2 + off_diagonal (sum of all other C^2)

    The D^W tensor is not formed: the sum of its squares is that of prod_w <z_i^w, z_j^w> over i
    and j. With W = 2 it is Barlow Twins.

    Args:
        sources: W >= 2 tensors (N, D), row i of all being one record.
        off_diagonal: the paper's lambda.
        tile: rows of an N x N matrix at a time.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or there are fewer than two sources.
    """
    _check("multi_barlow_twins", sources)
    rows = len(sources[0])
    if rows < 2:
        return connected_zero(*sources)
    z = [F.batch_norm(s, None, None, training=True, eps=1e-5) for s in sources]

    def squares(*tiles: Tensor) -> Tensor:
        product = tiles[0] @ z[0].T
        for a, b in zip(tiles[1:], z[1:]):
            product = product * (a @ b.T)
        return product.sum(1)

    diagonal = torch.stack(z).prod(0).mean(0)
    squared_sum = by_rows(squares, *z, tile=tile).sum() / rows**2
    return (1 - diagonal).square().sum() + off_diagonal * (squared_sum - diagonal.square().sum())


def _check(name: str, sources: Sequence[Tensor]) -> None:
    if len(sources) < 2:
        raise ValueError(f"{name} compares at least two sources, got {len(sources)}.")
    for other in sources[1:]:
        check_pair(name, sources[0], other)

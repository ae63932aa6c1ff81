"""Beam search with the length penalty of Wu et al. 2016, arXiv:1609.08144, eq. 14.

lp(Y) = ((5 + |Y|) / 6)^alpha.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids so far (M, t) int64, row of each (M,), parent of each (M,)) -> (M, A + 1) log probabilities
of each of A ids, and of the end.

The parent of a text is its number among the M texts of the call before, which had all of its ids
but the last: what a decoder with a cache goes on from. At the first call, where t is 0, it has no
meaning.
"""


@torch.no_grad()
def beam_search(
    step: Step,
    rows: int,
    *,
    beams: int = 4,
    longest: int = 64,
    alpha: float = 0.0,
    device: torch.device | None = None,
) -> list[tuple[list[int], float]]:
    """The best text of each row that a beam search finds.

    Args:
        step: Gives the log probabilities of the next id.
        rows: N.
        beams: Texts that a row goes on with; 1 is greedy. An end counts if it is among so many best
            continuations.
        longest: Ids at most; a text that gets there is scored without its end.
        alpha: Of the length penalty, 0 for none. The end counts towards |Y|.
        device: Of the texts.

    Returns:
        For each row the ids, without the end, with the highest log p / lp, and that score.
    """
    ids = torch.zeros(rows * beams, 0, dtype=torch.int64, device=device)
    owner = torch.arange(rows, device=device).repeat_interleave(beams)
    parent = torch.arange(rows * beams, device=device)
    score = torch.full((rows, beams), -torch.inf, device=device)
    score[:, 0] = 0  # at the start all beams are the same text
    best: list[tuple[list[int], float]] = [([], -float("inf"))] * rows

    def penalty(length: int) -> float:
        out: float = ((5 + length) / 6) ** alpha
        return out

    def finish(value_N: Tensor, beam_N: Tensor) -> None:
        for row, (value, beam) in enumerate(zip(value_N.tolist(), beam_N.tolist())):
            if value > best[row][1]:
                best[row] = ids[row * beams + beam].tolist(), value

    for t in range(longest if rows else 0):
        table = score.unsqueeze(2) + step(ids, owner, parent).float().view(rows, beams, -1)
        letters = table.shape[2] - 1
        last = (
            table.flatten(1).topk(beams, dim=1).values[:, -1:]
        )  # an end has to be among the best continuations
        ended = table[:, :, letters]
        finish(*(ended.masked_fill(ended < last, -torch.inf) / penalty(t + 1)).max(1))
        score, chosen = table[:, :, :letters].flatten(1).topk(beams, dim=1)
        parent = (
            torch.arange(rows, device=device).unsqueeze(1) * beams + chosen // letters
        ).flatten()
        ids = torch.cat([ids[parent], (chosen % letters).flatten().unsqueeze(1)], 1)
        # Log probabilities are negative and only fall: divided by the largest penalty they bound
        # what any longer text can reach.
        hope = (score.amax(1) / penalty(longest + 1)).tolist()
        if all(
            done >= most for (_, done), most in zip(best, hope)
        ):  # no text gets better by growing
            return best
    finish(*(score / penalty(longest)).max(1))  # without their end
    return best

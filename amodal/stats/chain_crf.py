"""A chain of words to regions, whose neighbours prefer to agree, decoded exactly.

Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306, section 3.1.4, eq. 10-12: maximise sum_j
v_(a_j).s_j + beta sum_j 1[a_j = a_(j+1)].

Ours: a word costs O(regions), as all changes of region cost the same; general decoders take the
square.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Ragged


@torch.no_grad()
def viterbi(scores: Ragged, beta: float) -> Ragged:
    """The best region of each word.

    Args:
        scores: N lists of (words, regions), how well each region fits each word.
        beta: Reward for two neighbours that share a region. 0 is the best region of each word
            alone; a large one gives the whole sentence to one region.

    Returns:
        N lists of (words,) int64. Ties go to the first region.

    Raises:
        ValueError: For a negative beta.
    """
    if beta < 0:
        raise ValueError(f"beta must be at least 0, got {beta}.")
    paths = [_best_path(score_WR, beta) for score_WR in scores.split()]
    flat = torch.cat(paths) if paths else scores.lengths[:0]
    return Ragged(flat, scores.lengths)


def _best_path(score_WR: Tensor, beta: float) -> Tensor:
    """(words,) int64 for one sentence."""
    if not len(score_WR):
        return torch.zeros(0, dtype=torch.int64, device=score_WR.device)
    total, back = score_WR[0], []
    regions = torch.arange(score_WR.shape[1], device=score_WR.device)
    for score_R in score_WR[1:]:
        # a change costs the same from everywhere, so a region's best predecessor is itself or
        # `best`
        best = total.argmax()
        stays = total + beta >= total[best]
        back.append(torch.where(stays, regions, best))
        total = score_R + torch.where(stays, total + beta, total[best])
    path = [total.argmax()]
    for step in reversed(back):
        path.append(step[path[-1]])
    return torch.stack(path[::-1])


def snippets(region_W: Tensor) -> list[tuple[int, int, int]]:
    """Runs of neighbouring words that share a region: the region's text.

    Args:
        region_W: Region of each word.

    Returns:
        (first word, last word + 1, region) of each run.
    """
    runs, counts = torch.unique_consecutive(region_W, return_counts=True)
    ends = counts.cumsum(0).tolist()
    return [(end - n, end, region) for region, n, end in zip(runs.tolist(), counts.tolist(), ends)]

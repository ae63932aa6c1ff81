"""Words and regions of pairs: how well they fit, which goes with which, and the text that each
region gets (arXiv:1412.2306)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from amodal.core import Ragged
from amodal.core.column import spans
from amodal.objectives.mil import bag_scores, bag_tile, max_pool
from amodal.objectives.packed import pad_packed
from amodal.objectives.tiles import by_rows
from amodal.stats.chain_crf import snippets, viterbi


def scores(seen: Ragged, words: Ragged) -> Tensor:
    """(K, L): each of K pictures, as regions, with each of L sentences, as words."""
    blocks, there = pad_packed(seen)

    def some(block, mask):
        return bag_scores(block, mask, words.flat, words.lengths, pool=max_pool, total=True)

    return by_rows(some, blocks, there, tile=bag_tile(there, words.flat))


def assign(seen: Ragged, words: Ragged, beta: float) -> Ragged:
    """The region of each word of N pairs, by number in its own picture (0 is the whole); beta: see
    `amodal.stats.chain_crf.viterbi`."""
    fits = [s @ r.T for s, r in zip(words.split(), seen.split())]
    widest = max((f.shape[1] for f in fits), default=0)
    block = [pad(f, (0, widest - f.shape[1]), value=-torch.inf) for f in fits]
    return viterbi(Ragged(torch.cat(block) if block else words.flat, words.lengths), beta)


def cut(regions: Ragged, ids: Ragged, paths: Ragged) -> tuple[Tensor, Tensor, Ragged]:
    """Of N pairs P texts and what they are about: the pair (P,) that each is of, its region's
    vector (P, D), its ids. First the whole text with the first region, then, along the text, what
    each region was given. paths: a region for each id, of `assign`."""
    pieces = [((0, len(path), 0), *snippets(path)) for path in paths.split()]
    at = [(i, start, stop, region) for i, some in enumerate(pieces) for start, stop, region in some]
    owner, start, stop, region = (
        torch.tensor(at, dtype=torch.int64, device=ids.lengths.device).view(-1, 4).T
    )
    text = Ragged(ids.flat[spans(ids.starts()[owner] + start, stop - start)], stop - start)
    return owner, regions.flat[regions.starts()[owner] + region], text

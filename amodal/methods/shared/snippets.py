"""Words and regions of pairs: their scores, their alignment, and the snippet of text of each region
(arXiv:1412.2306)."""

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
    """The score of every picture with every sentence.

    Args:
        seen: The regions of K pictures.
        words: The words of L sentences.

    Returns:
        (K, L).
    """
    blocks, mask = pad_packed(seen)

    def tile_scores(block: Tensor, valid: Tensor) -> Tensor:
        return bag_scores(block, valid, words.flat, words.lengths, pool=max_pool, total=True)

    return by_rows(tile_scores, blocks, mask, tile=bag_tile(mask, words.flat))


def assign(seen: Ragged, words: Ragged, beta: float) -> Ragged:
    """Align each word of N pairs with a region of its picture.

    Args:
        seen: The regions of N pictures.
        words: The words of their sentences.
        beta: See `amodal.stats.chain_crf.viterbi`.

    Returns:
        The number of a region for each word (0 is the whole picture).
    """
    fits = [s @ r.T for s, r in zip(words.split(), seen.split())]
    widest = max((f.shape[1] for f in fits), default=0)
    # -inf is of regions that a picture lacks: never the best
    block = [pad(f, (0, widest - f.shape[1]), value=-torch.inf) for f in fits]
    return viterbi(Ragged(torch.cat(block) if block else words.flat, words.lengths), beta)


def by_word(vectors: Ragged, number_T: Tensor) -> tuple[Ragged, list[list[int]]]:
    """Words of tokens that are parts of words.

    The score of a word with a region is the sum over its tokens, so the vector of a word is their
    sum.

    Args:
        vectors: The tokens of N texts.
        number_T: (T,) of each the number of its word in the text, ascending.

    Returns:
        The words of the N texts, and of each text where its words begin, and its end, in tokens.
    """
    sums, lengths, starts = [], [], []
    for vector_LD, number_L in zip(vectors.split(), number_T.split(vectors.lengths.tolist())):
        _, index_L, counts = torch.unique_consecutive(
            number_L, return_inverse=True, return_counts=True
        )
        sums.append(
            vector_LD.new_zeros(len(counts), vector_LD.shape[1]).index_add(0, index_L, vector_LD)
        )
        lengths.append(len(counts))
        starts.append([0, *counts.cumsum(0).tolist()])
    flat = torch.cat(sums) if sums else vectors.flat
    return Ragged(flat, torch.tensor(lengths, dtype=torch.int64, device=flat.device)), starts


def cut(regions: Ragged, ids: Ragged, paths: Ragged) -> tuple[Tensor, Tensor, Ragged]:
    """Cut the texts of N pairs into P snippets, one for each region and one of the whole text.

    Args:
        regions: The vectors of the pictures' regions.
        ids: Of the texts.
        paths: A region for each id, of `assign`.

    Returns:
        The pair of each snippet (P,), the vector of its region (P, D), its ids. Of a pair the whole
        text with the first region comes first, then the others along the text.
    """
    pieces = [((0, len(path), 0), *snippets(path)) for path in paths.split()]
    cuts = [(i, start, stop, region) for i, cut in enumerate(pieces) for start, stop, region in cut]
    owner, start, stop, region = (
        torch.tensor(cuts, dtype=torch.int64, device=ids.lengths.device).view(-1, 4).T
    )
    text = Ragged(ids.flat[spans(ids.starts()[owner] + start, stop - start)], stop - start)
    return owner, regions.flat[regions.starts()[owner] + region], text

"""Deep visual-semantic alignments: which word goes with which part of a picture, learnt from whole pairs alone.
Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306. Words read from both ends: eq. 2-6; score of a picture and a sentence: eq. 8, S_kl =
sum over words t of max over regions i of v_i.s_t; structured max-margin loss: eq. 9; words to regions along the sentence: eq. 10-12,
in `amodal.nn.chain`. Row 157 of the catalogue.

Regions are the tokens of the picture's trunk and their mean as the whole, not R-CNN boxes; words are learnt, not word2vec; the loss is
a mean over pairs where theirs is a sum. The caption generator of their section 3.2 is not here. The vectors that `embed` gives are the mean
of the parts and only near to the score; `scores` has the score itself. Any field may be the words, and all others are paired with it."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Batch, Column, Ragged
from amodal.core.column import shared_rows
from amodal.methods._contract import Features
from amodal.methods._matching import token_features, words_of
from amodal.methods._regions import alone, vectors
from amodal.methods.shapes import Towers, share, two_senses
from amodal.nn.chain import viterbi
from amodal.nn.cross import side_by_side
from amodal.nn.encoder import Encoder
from amodal.objectives.bags import padded
from amodal.objectives.margin import ranking_hinge_of_scores
from amodal.objectives.mil import bag_scores, bag_tile, max_pool
from amodal.objectives.tiles import by_rows

ENCODER = {"mixer": "brnn"}


def deepvs(
    encoder: Encoder, *, words: str = "", width: int = 600, margin: float = 1.0, over: str = "sum", regions: bool = True
) -> Towers:
    """words: the field whose tokens look for regions, the first text unless given; width: h of the common space (300 to 1600 in the
    paper); margin: by which a pair must score above mismatched ones; over: of a row's mismatches, their "sum", "mean" or the "hardest";
    regions: False leaves the whole as the only region, which is a dot product of whole pictures and words."""
    name, others = words_of(two_senses(encoder), words)

    def objective(features):
        losses = {}
        for s in others:
            seen, asked = features[f"parts/{s}"], features[f"parts/{name}"]
            a, b = shared_rows(seen, asked)
            table = scores(seen.values[a], asked.values[b])
            losses[f"hinge/{s}~{name}"] = ranking_hinge_of_scores(table, margin=margin, over=over)
        return share(losses)

    return Parts(encoder.align(width), objective, name, regions)


class Parts(Towers):
    """Features: `parts/` of each source, its tokens in the common space; of all but the words the whole comes first."""

    def __init__(self, encoder, objective, words, regions):
        super().__init__(encoder, objective)
        self.words, self.regions = words, regions

    def features(self, batch: Batch) -> Features:
        context, encoder = alone(self.encoder, batch), self.encoder
        whole = vectors(encoder, context, batch.size)
        columns = {}
        for name, bag in token_features(encoder, context, list(encoder.fields)).items():
            s = name.removeprefix("tokens/")
            parts, one = Ragged(encoder.heads[s](bag.values.flat), bag.values.lengths), whole[s].values
            if s != self.words:
                first = Ragged(one, torch.ones_like(bag.rows))
                parts = side_by_side([first, parts]) if self.regions else first
            columns[f"parts/{s}"] = Column(parts, bag.rows)
        return Features(columns, batch.size)


def scores(seen: Ragged, words: Ragged) -> Tensor:
    """(K, L): each of K pictures, as regions, with each of L sentences, as words."""
    blocks, there = padded(seen)

    def some(block, mask):
        return bag_scores(block, mask, words.flat, words.lengths, pool=max_pool, total=True)

    return by_rows(some, blocks, there, tile=bag_tile(there, words.flat))


def assign(seen: Ragged, words: Ragged, beta: float) -> Ragged:
    """The region of each word of N pairs, by number in its own picture (0 is the whole); beta: see `amodal.nn.chain.viterbi`."""
    fits = [s @ r.T for s, r in zip(words.split(), seen.split())]
    widest = max((f.shape[1] for f in fits), default=0)
    block = [torch.nn.functional.pad(f, (0, widest - f.shape[1]), value=-torch.inf) for f in fits]
    return viterbi(Ragged(torch.cat(block) if block else words.flat, words.lengths), beta)

"""Deep visual-semantic alignments: which word goes with which part of a picture, learnt from whole
pairs alone. Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306. Words read from both ends: eq. 2-6;
score of a picture and a sentence: eq. 8, S_kl = sum over words t of max over regions i of v_i.s_t;
structured max-margin loss: eq. 9; words to regions along the sentence: eq. 10-12, in
`amodal.stats.chain_crf`; generator, on whole pictures and on the regions' snippets: eq. 13-15, in a
second stage. Row 157 of the catalogue.

Regions are the tokens of the picture's trunk and their mean as the whole, not R-CNN boxes; words
are learnt, not word2vec; the loss is a mean over pairs where theirs is a sum; the generator reads
the trunk's tokens, frozen. The vectors that `embed` gives are the mean of the parts and only near
to the score; `scores` has the score itself. Any field may be the words, and all others are paired
with it."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.matching import pick_text_field, token_features
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import Towers, share, token_mean, two_fields
from amodal.methods.shared.snippets import assign, cut, scores
from amodal.nn.attention.cross import join_lists
from amodal.nn.encoder import Encoder
from amodal.nn.generation.captioner import Captioner
from amodal.objectives.margin import ranking_hinge_of_scores

ENCODER = {"mixer": "brnn"}


def deepvs(
    encoder: Encoder,
    *,
    words: str = "",
    width: int = 600,
    margin: float = 1.0,
    over: str = "sum",
    regions: bool = True,
    captions: float = 0.0,
    beta: float = 1.0,
    hidden: int = 512,
) -> Towers:
    """words: the field whose tokens look for regions, the first text unless given; width: h of the
    common space (300 to 1600 in the paper); margin: by which a pair must score above mismatched
    ones; over: of a row's mismatches, their "sum", "mean" or the "hardest"; regions: False leaves
    the whole as the only region, which is a dot product of whole pictures and words; captions:
    share of the steps, at the end, that train the generator (0: none); beta: how long its snippets
    get; hidden: width of its state."""
    name, others = pick_text_field(two_fields(encoder), words)
    if captions and (not encoder.fields[name].takes_prompts or encoder.fields[name].patch > 1):
        raise AmodalError(
            f"captions are written id by id: {name} must be a text field with patch = 1"
        )

    def objective(features):
        losses = {}
        for s in others:
            seen, asked = features[f"parts/{s}"], features[f"parts/{name}"]
            a, b = shared_rows(seen, asked)
            table = scores(seen.values[a], asked.values[b])
            losses[f"hinge/{s}~{name}"] = ranking_hinge_of_scores(table, margin=margin, over=over)
        return share(losses)

    method = Parts(encoder.align(width), objective, name, regions)
    if captions:
        alphabet, method.beta = encoder.fields[name].vocab_size, beta
        method.writer, method.stages = (
            Captioner(encoder.width, alphabet, hidden),
            (1 - captions, 1.0),
        )
        method.on_stage_start(0)
    return method


class Parts(StagedMethod, Towers):
    """Features: `parts/` of each source, its tokens in the common space; of all but the words the
    whole comes first. In the second stage `caption/` losses of what is written about each of them.
    """

    def __init__(self, encoder, objective, words, regions):
        super().__init__(encoder, objective)
        self.words, self.regions, self.stage, self.writer, self.beta = words, regions, 0, None, 0.0

    def on_stage_start(self, stage: int) -> None:
        self.stage = stage
        if self.writer is not None:
            self.encoder.requires_grad_(stage == 0)
            self.writer.requires_grad_(stage == 1)

    def features(self, batch: Batch) -> Features:
        return self.told(batch) if self.stage else self.parts(batch)[0]

    def parts(self, batch: Batch) -> tuple[Features, dict[str, Column]]:
        """The same in the common space, and as the trunk left them."""
        context, encoder, seen, common = alone(self.encoder, batch), self.encoder, {}, {}
        whole = encoder.pool(context)
        for name, bag in token_features(encoder, context, list(encoder.fields)).items():
            s, lists = name.removeprefix("tokens/"), bag.values
            if s != self.words:
                first = Ragged(whole[s].values, torch.ones_like(bag.rows))
                lists = join_lists([first, lists]) if self.regions else first
            seen[s] = Column(lists, bag.rows)
            common[f"parts/{s}"] = Column(
                Ragged(encoder.heads[s](lists.flat), lists.lengths), bag.rows
            )
        return Features(common, batch.size), seen

    def told(self, batch: Batch) -> Features:
        columns = {}
        with torch.no_grad():
            common, seen = self.parts(batch)
        for s in (s for s in seen if s != self.words):
            a, b = shared_rows(seen[s], batch[self.words])
            parts, line = seen[s].values[a], batch[self.words].values[b]
            paths = assign(
                common[f"parts/{s}"].values[a], common[f"parts/{self.words}"].values[b], self.beta
            )
            owner, vectors, text = cut(parts, line, paths)
            each = self.writer(vectors, text)
            columns[f"caption/{s}"] = Column(
                each.new_zeros(len(a), 2).index_add(0, owner, each), seen[s].rows[a]
            )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        if self.stage:
            return share({name: token_mean(features[name]) for name in features})
        return self.objective(features)

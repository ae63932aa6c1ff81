"""Less bimodal supervision: two encoders that were trained apart, co-attention over both, and as
few pairs as one has to join them with. Segal, Bogin and Berant, 2022, arXiv:2211.00262, section 3:
METER's network (arXiv:2111.02387), masked words and image-text matching on pairs, or on lists of
labels instead of captions, then fine-tuning with a rate for each part. Row 135 of the catalogue.

Pairs are records with words and another field; lists of labels are a text field like any other. One
run does both: a share of the steps on pairs, the rest on a label. Of more than two fields the words
are read with each other one in turn, by the same layers, and answers rest on all of these pairs
(two pictures and a statement, as in NLVR2). Encoders trained apart come from a run or are
backbones. Differences: mean tokens in the place of first ones; all masked words become the mask;
strangers are of the batch; answers are one of a list of classes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, name_code
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import share, token_mean, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.co_encoder import CoEncoder
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.matching import matching, swap_partners


def less_bimodal(
    encoder: Encoder,
    *,
    words: str = "",
    label: str = "",
    targets: tuple = (),
    task: str = "auto",
    pairs: float = 0.5,
    depth: int = 6,
    ratio: float = 0.15,
    swap: float = 0.5,
    cross_rate: float = 5.0,
    head_rate: float = 10.0,
    view: str = "weak",
) -> LessBimodal:
    """words: the field that is masked and matched, the first text unless given. label: what is to
    be told, a label of the data, or several with commas between; targets: what the labels hold
    (read from the data unless given); task: "auto", by the kind of each label, or "survival", label
    being TIME,EVENT. pairs: share of the steps that learn from pairs before the label, 0 for none,
    1 for pairs alone. depth: co-attention layers; ratio: of masked words; swap: share of pairs with
    another's picture; cross_rate, head_rate: how many times the encoders' learning rate
    co-attention and heads learn at; view: of all fields but the words."""
    if not 0 <= pairs <= 1:
        raise AmodalError(
            f"pairs = {pairs} is the share of the steps before the label, from 0 to 1"
        )
    name, rest = m.words_of(two_fields(encoder), words)
    masked = m.MaskedWords(encoder, name, ratio) if pairs else None
    whole, told = 2 * encoder.width, pairs < 1 or targets
    head = (
        SupervisedHead([Target.read(t) for t in targets], rest, whole, hidden=whole)
        if told
        else None
    )
    co = CoEncoder(list(encoder.fields), encoder.width, depth, encoder.heads_each)
    method = LessBimodal(encoder, co, masked, head, name, swap)
    method.views = {f: ("plain" if f == name else view,) for f in encoder.fields}
    method.lr_multipliers = {
        "co": cross_rate,
        "match": head_rate,
        "head": head_rate,
        "masked": cross_rate,
    }
    method.stages = (pairs, 1.0) if 0 < pairs < 1 else (1.0,)
    return method


class LessBimodal(StagedMethod):
    """Features on pairs: `mlm/FIELD`, `tokens/SOURCE`, the seeds; on the label: `told`, and the
    labels."""

    def __init__(
        self,
        encoder: Encoder,
        co: CoEncoder,
        masked,
        head: SupervisedHead | None,
        words: str,
        swap: float,
    ):
        super().__init__()
        self.encoder, self.co, self.masked, self.head, self.words, self.swap = (
            encoder,
            co,
            masked,
            head,
            words,
            swap,
        )
        self.match = nn.Linear(2 * encoder.width, 1)
        self.labels = head.labels if head is not None else ()
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.on_pairs = self.masked is not None and stage == 0
        for part, learns in (
            (self.masked, self.on_pairs),
            (self.match, self.on_pairs),
            (self.head, not self.on_pairs),
        ):
            if part is not None:
                part.requires_grad_(learns)

    def features(self, batch: Batch) -> Features:
        if not self.on_pairs:
            return Features({"told": self.predict(batch)} | self.head.known(batch), batch.size)
        context = alone(self.encoder, batch)
        columns = m.token_features(self.encoder, context, list(batch.sources)) | {
            m.SEED: m.seed_column(batch)
        }
        content = self.encoder.patchify(batch.only(self.words))[self.words]
        for s in (s for s in batch.sources if s != self.words):
            read = partial(self.co.read, self.words, s)
            columns[f"mlm/{s}"] = self.masked(
                self.encoder, batch, content, columns[f"tokens/{s}"], read
            )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        if not self.on_pairs:
            return share(self.head.losses(features["told"], features))
        filled = {s: token_mean(features[s]) for s in features if s.startswith("mlm/")}
        return share(filled) | share(
            {f"itm/{s[4:]}": self.matched(features, s[4:]) for s in filled}
        )

    def matched(self, features: Features, field: str) -> Tensor:
        words, seen = features[f"tokens/{self.words}"], features[f"tokens/{field}"]
        at, at_seen = shared_rows(words, seen)
        seeds = hash_bits(features[m.SEED].values[words.rows[at]], name_code(f"swap {field}"))
        shown = swap_partners(seeds, self.swap)
        own = shown == torch.arange(len(at), device=at.device)
        logits = self.match(
            self.co.means({self.words: words.values[at], field: seen.values[at_seen[shown]]})
        )
        return matching(logits[own].squeeze(1), logits[~own].squeeze(1))

    def predict(self, batch: Batch) -> Column:
        bags = {
            s: self.encoder.pools[s].strip(bag) for s, bag in alone(self.encoder, batch).items()
        }
        lists = {s: Ragged(bag.x, bag.lengths()) for s, bag in bags.items()}
        words, pairs = lists.pop(self.words), {}
        for s, seen in lists.items():
            rows = (seen.lengths + words.lengths).nonzero().squeeze(1)
            pairs[s] = Column(self.co.means({self.words: words, s: seen})[rows], rows)
        return self.head(Embeddings(pairs, batch.size))

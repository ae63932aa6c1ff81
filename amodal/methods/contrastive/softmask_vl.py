"""Soft masks: what a word points at in the picture is turned down, and the pair must be recognised
by what is left. Park and Han, CVPR 2023, arXiv:2304.00719. Soft-masked matching: their section 4.1,
focal contrast 4.2, masked words and distorted pictures as augmentation 4.3, on the losses, momentum
copies and queues of ALBEF (arXiv:2107.07651). Row 67 of the catalogue. No reference code is public:
the block that is explained, gamma and the start of the masks are chosen here; the word is drawn
from all words of a text. The momentum copy gives keys, but no soft targets (ALBEF's distillation):
the focal factor needs one true partner. Any field may take the part of the words; other fields are
matched with them one by one, and with each other by contrast alone."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.core.column import shared_rows
from amodal.masking.soft import one_map, soft_mask
from amodal.methods.contract import Clock, Features, Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    ema_update,
    field_pairs,
    frozen_copy,
    share,
    token_mean,
    two_fields,
)
from amodal.nn.encoder import Encoder
from amodal.nn.queue import Queues
from amodal.nn.scale import Scale
from amodal.objectives.focal_info_nce import focal_info_nce
from amodal.objectives.matching import matching


def softmask_vl(
    encoder: Encoder,
    *,
    words: str = "",
    soft: float = 1.0,
    hard: float = 0.0,
    warmup: float = 0.1,
    gamma: float = 2.0,
    augment: bool = True,
    view: str = "weak",
    ratio: float = 0.15,
    width: int = 256,
    depth: int = 2,
    temperature: float = 0.07,
    momentum: float = 0.995,
    queue: int = 65536,
) -> Method:
    """words: the field that points and is masked, the first text unless given. soft: weight of
    matching with soft masks, 0 for none; hard: above 0, what lies above this height of the map is
    removed instead; warmup: share of the steps before masks begin. gamma: of the focal contrast, 0
    for InfoNCE. augment: contrast and matching read the words with some of them masked; view: of
    all other fields ("strong" also changes colours, which words may name). ratio: share of words to
    be filled in. width: of the common space; depth: of the matcher, whose last block is explained;
    temperature: where the learned one starts. momentum: of the slow copy that keys come from (0:
    the encoder as it was a step ago); queue: keys of earlier rows of each field, well below the
    number of records, or old keys of a row stand among its strangers."""
    name, _ = m.pick_text_field(two_fields(encoder), words)
    options = {
        "soft": soft,
        "hard": hard,
        "warmup": warmup,
        "gamma": gamma,
        "augment": augment,
        "momentum": momentum,
    }
    views = {f: ("plain" if f == name else view,) for f in encoder.fields}
    matcher = m.Matcher(encoder.width, depth=depth, heads=encoder.num_heads)
    scale, queues = Scale(1 / temperature, most=1000.0), Queues(list(encoder.fields), queue, width)
    return SoftMasks(
        encoder.align(width),
        matcher,
        m.MaskedWords(encoder, name, ratio),
        scale,
        queues,
        views,
        options,
    )


class SoftMasks(Method):
    """Features: vectors of all sources, `slow/` of the momentum copy, `tokens/` of all sources,
    `mlm/` the sums of masked words."""

    min_batch_size = 2

    def __init__(self, encoder, matcher, masked, scale, queues, views, options):
        super().__init__()
        self.encoder, self.matcher, self.masked, self.scale, self.queues = (
            encoder,
            matcher,
            masked,
            scale,
            queues,
        )
        self.words, self.views, self.o = masked.field, views, options
        self.slow = frozen_copy(encoder)
        self.register_buffer("progress", torch.zeros(()))
        self._seen: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> Features:
        encoder, w = self.encoder, self.words
        content, others = encoder.patchify(batch.only(w))[w], [s for s in encoder.fields if s != w]
        hidden_T, target_T = (
            self.masked.draw(content, batch.seeds),
            encoder.fields[w].targets(batch[w].values),
        )
        gaps = {w: self.masked.context(encoder, content, hidden_T)}
        context = (
            alone(encoder, batch.only(*others)) | gaps
            if self.o["augment"]
            else alone(encoder, batch)
        )
        columns = vectors(encoder, context, batch.size).columns | {m.SEED: m.seed_column(batch)}
        columns |= m.token_features(encoder, context, list(encoder.fields))
        read = m.token_features(encoder, gaps, [w])[f"tokens/{w}"], hidden_T, target_T
        for s in others:
            columns[f"mlm/{s}"] = self.masked.predict_hidden(
                encoder, *read, columns[f"tokens/{s}"], self.matcher.cross
            )
        with torch.no_grad():
            columns |= {f"slow/{s}": column for s, column in self.slow(batch).columns.items()}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({f: features[f] for f in self.encoder.fields}, features.size)
        keys = Embeddings({f: features[f"slow/{f}"] for f in z}, z.size)
        self._seen = {f: keys[f].values.detach() for f in z}
        pairs = {s: self.match(features, s) for s in z if s != self.words}
        focal = {"temperature": 1 / self.scale(), "gamma": self.o["gamma"]}
        pool = (focal_info_nce, z, keys, self.queues)
        terms = share(
            {f"itc/{a}~{b}": m.with_queue(*pool, a, b, **focal) for a, b in field_pairs(z)}
        )
        terms |= share({f"itm/{s}": matching(same, wrong) for s, (same, wrong, _) in pairs.items()})
        terms |= share({f"mlm/{s}": token_mean(features[f"mlm/{s}"]) for s in pairs})
        if weight := self.weight():
            terms |= share(
                {
                    f"soft/{s}": weight * matching(left, wrong)
                    for s, (_, wrong, left) in pairs.items()
                }
            )
        return terms

    def match(self, features: Features, s: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits of pairs, of mismatched pairs, and of pairs of which the picture is masked by what
        one word points at."""
        both = shared_rows(features[f"tokens/{self.words}"], features[f"tokens/{s}"])
        words, seen = (features[f"tokens/{f}"].values[i] for f, i in zip((self.words, s), both))
        drawn = m.draw_negatives(features, self.words, s, temperature=1 / self.scale())
        wrong = self.matcher.negative_logits(words, seen, *drawn)
        if not self.weight():
            return self.matcher(words, seen), wrong, None
        same, maps = self.matcher.logits_and_relevance(words, seen)
        of_word = one_map(
            maps, words.lengths, features[m.SEED].values[features[f"tokens/{s}"].rows[both[1]]]
        )
        return (
            same,
            wrong,
            self.matcher(words, seen, soft_mask(of_word, seen.lengths, hard=self.o["hard"])),
        )

    def weight(self) -> float:
        return self.o["soft"] if self.progress >= self.o["warmup"] else 0.0

    def on_step_end(self, clock: Clock) -> None:
        self.progress.fill_(clock.progress)
        self.queues.push(self._seen)
        ema_update(self.slow, self.encoder, self.o["momentum"])

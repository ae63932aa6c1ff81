"""Soft masks: attenuate what a word attends to in the picture, and match the rest with the text.

Park and Han, CVPR 2023, arXiv:2304.00719. Soft-masked matching: their section 4.1; focal contrast:
4.2; masked words and distorted pictures as augmentation: 4.3; on the losses, momentum encoders and
queues of ALBEF (arXiv:2107.07651). Row 67 of the catalogue.

Differs:

- No reference code is public, and the paper's recipe is not known here. The block for Grad-CAM,
  gamma and the start of the masks are chosen here; the word is drawn from all words of a text.
- encoder: transformers over tokens from scratch, of one size. ALBEF has a ViT-B/16 begun from DeiT
  and the two halves of a BERT-base, 12 layers in all; a BERT for the words is refused, as its
  tokens have seen those that are to be hidden. Other fields may have a backbone.
- words: masked is a token, or a word (`whole_words`), which is always replaced by the mask token;
  BERT leaves a fifth of them as they are or puts another there.
- matching: one logit and binary cross-entropy over the mean token; ALBEF has two from its first.
  A row without a partner of another kind has no negative.
- The momentum encoder gives keys, but no soft targets (ALBEF's distillation): the focal factor
  needs one true partner. Its keys are of whole texts, and the queries of masked ones (`augment`).
- Any field may take the part of the words. Other fields are matched with it one by one, and with
  each other by contrast alone; terms of a kind are averaged.
- temperature: learned as a logarithm, above .001.
- product: retrieval and search are by vectors; nothing is ranked a second time by the matcher on
  the command line, and questions (VQA, NLVR) and grounding are not here.
- open: a pretrained ViT and BERT from which words are hidden (ALBEF), texts ranked by the matcher,
  questions, and the recipe. Waits for work, and the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings, Ragged
from amodal.core.column import shared_rows
from amodal.masking.soft import one_map, soft_mask
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    ema_update,
    field_pairs,
    momentum_copy,
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
    text_field: str = "",
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
    whole_words: bool = False,
) -> SoftMasks:
    """Contrast, matching and masked words as in ALBEF, and matching of softly masked pictures.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        text_field: The field whose words are masked, and mask the others. Default: the first text
            field.
        soft: Weight of matching with soft masks, 0 for none.
        hard: Above 0, what exceeds this value of the map is removed instead.
        warmup: Share of the steps before masks begin.
        gamma: Exponent of the focal contrast, 0 for InfoNCE.
        augment: Use texts with some words masked for contrast and matching too.
        view: Augmentation of all other fields ("strong" also changes colours, which words may
            name).
        ratio: Share of the words that are masked.
        width: Width of the common space.
        depth: Number of blocks of the matcher; Grad-CAM is of the last one.
        temperature: Initial value of the learned temperature.
        momentum: Momentum of the copy that keys come from (0: the encoder as of the last step).
        queue: Number of keys of earlier rows of each field. Set it well below the number of
            records: an old key of a row would be among its negatives.
        whole_words: Mask words whole where a token is a part of one.
    """
    name, _ = m.pick_text_field(two_fields(encoder), text_field)
    matcher = m.Matcher(encoder.width, depth=depth, heads=encoder.num_heads)
    scale, queues = Scale(1 / temperature, most=1000.0), Queues(list(encoder.fields), queue, width)
    return SoftMasks(
        encoder.align(width),
        matcher=matcher,
        masked_words=m.MaskedWords(
            encoder, name, ratio, method="softmask_vl", whole_words=whole_words
        ),
        scale=scale,
        queues=queues,
        soft=soft,
        hard=hard,
        warmup=warmup,
        gamma=gamma,
        augment=augment,
        view=view,
        momentum=momentum,
    )


@dataclass(frozen=True, kw_only=True)
class SoftMaskFeatures(FeatureRecord):
    """Vectors and tokens of all fields, keys, and the losses of masked words."""

    aligned: Columns  # field -> (N, D)
    keys: Columns  # field -> (N, D), of the momentum encoder
    tokens: Columns  # field -> N lists of (D,)
    masked_losses: Columns  # field but the words -> (N, 2), sum and number
    seeds: Column  # (B,)

    def lists(self, field: str, index: Tensor) -> Ragged:
        """The tokens of a field at `index` (n,)."""
        lists = self.tokens[field].values[index]
        assert isinstance(lists, Ragged)
        return lists


class SoftMasks(Method):
    """See `softmask_vl`.

    Args:
        matcher: Image-text matching, and the cross-attention for masked words.
        masked_words: Masks words and predicts them.
        queues: Keys of earlier rows.
        soft, hard, warmup, gamma, augment, view, momentum: As of `softmask_vl`.
    """

    min_batch_size = 2
    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        matcher: m.Matcher,
        masked_words: m.MaskedWords,
        scale: Scale,
        queues: Queues,
        soft: float,
        hard: float,
        warmup: float,
        gamma: float,
        augment: bool,
        view: str,
        momentum: float,
    ):
        super().__init__()
        self.encoder, self.matcher, self.masked_words = encoder, matcher, masked_words
        self.scale, self.queues, self.text_field = scale, queues, masked_words.field
        self.views = {f: ("plain" if f == self.text_field else view,) for f in encoder.fields}
        self.soft, self.hard, self.warmup, self.gamma = soft, hard, warmup, gamma
        self.augment, self.momentum = augment, momentum
        self.momentum_encoder = momentum_copy(encoder)
        self.register_buffer("progress", torch.zeros(()))
        self._keys: dict[str, Tensor] = {}

    def features(self, batch: Batch) -> SoftMaskFeatures:
        encoder, w = self.encoder, self.text_field
        content, others = encoder.patchify(batch.only(w))[w], [s for s in encoder.fields if s != w]
        hidden_T = self.masked_words.draw(encoder, content, batch)
        target_T = encoder.fields[w].targets(batch[w].values)
        masked = {w: self.masked_words.context(encoder, content, hidden_T)}
        context = (
            alone(encoder, batch.only(*others)) | masked if self.augment else alone(encoder, batch)
        )
        z = vectors(encoder, context, batch.size)
        tokens = {
            name.removeprefix("tokens/"): column
            for name, column in m.token_features(encoder, context, list(encoder.fields)).items()
        }
        words = m.token_features(encoder, masked, [w])[f"tokens/{w}"]
        masked_losses = {
            s: self.masked_words.predict_hidden(
                encoder, words, hidden_T, target_T, tokens[s], self.matcher.cross
            )
            for s in others
        }
        with torch.no_grad():
            keys = self.momentum_encoder(batch).columns
        return SoftMaskFeatures(
            size=batch.size,
            aligned=z.columns,
            keys=keys,
            tokens=tokens,
            masked_losses=masked_losses,
            seeds=m.seed_column(batch),
        )

    def losses(self, features: SoftMaskFeatures) -> dict[str, Tensor]:
        z = Embeddings({f: features.aligned[f] for f in self.encoder.fields}, features.size)
        keys = Embeddings({f: features.keys[f] for f in z}, z.size)
        # pushed into the queues after the step, so that a key is no negative of its own row
        self._keys = {f: keys[f].flat.detach() for f in z}
        logits = {s: self.match(features, s) for s in z if s != self.text_field}
        t, queues = 1 / self.scale(), self.queues
        # the focal contrast of section 4.2, with a queue in each direction
        terms = share(
            {
                f"itc/{a}~{b}": m.with_queue(
                    focal_info_nce, z, keys, queues, a, b, temperature=t, gamma=self.gamma
                )
                for a, b in field_pairs(z)
            }
        )
        terms |= share(
            {f"itm/{s}": matching(same, wrong) for s, (same, wrong, _) in logits.items()}
        )
        terms |= share({f"mlm/{s}": token_mean(features.masked_losses[s]) for s in logits})
        if weight := self.soft_weight():
            terms |= share(
                {
                    f"soft/{s}": weight * matching(masked, wrong)
                    for s, (_, wrong, masked) in logits.items()
                    if masked is not None
                }
            )
        return terms

    def match(self, features: SoftMaskFeatures, s: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Match the words with one other field.

        Returns:
            Logits of pairs, of mismatched pairs, and of pairs whose picture is masked by what one
            word attends to (None before masks begin).
        """
        word_rows, rows = shared_rows(features.tokens[self.text_field], features.tokens[s])
        words, seen = features.lists(self.text_field, word_rows), features.lists(s, rows)
        drawn = m.draw_negatives(
            Embeddings({**features.aligned, m.SEED: features.seeds}, features.size),
            self.text_field,
            s,
            temperature=1 / self.scale(),
        )
        wrong = self.matcher.negative_logits(words, seen, *drawn)
        if not self.soft_weight():
            return self.matcher(words, seen), wrong, None
        # one pass for the logits and for Grad-CAM, which differentiates them
        same, maps = self.matcher.logits_and_relevance(words, seen)
        seeds = features.seeds.flat[features.tokens[s].rows[rows]]
        # section 4.1: the factors 1 - A of the parts of the picture, by what one word attends to
        strength = soft_mask(one_map(maps, words.lengths, seeds), seen.lengths, hard=self.hard)
        return same, wrong, self.matcher(words, seen, strength)

    def soft_weight(self) -> float:
        """Weight of soft-masked matching in this step."""
        return self.soft if self.progress >= self.warmup else 0.0

    def on_step_end(self, clock: Clock) -> None:
        self.progress.fill_(clock.progress)
        self.queues.push(self._keys)
        ema_update(self.momentum_encoder, self.encoder, self.momentum)

"""TiMix: text-aware CutMix. Captions choose the window of one picture that is pasted into another.

Jiang, Ye, Xu, Ye, Yan, Zhang and Zhang, AAAI 2024, arXiv:2312.08846. The window that fits its
caption best is pasted over the window that fits the other caption least, and the mixture belongs to
both captions. Mixed contrastive loss: cross-entropy in both directions with the shares of the area
as targets. Row 79 of the catalogue.

Differs:

- host: CLIP. The paper's are ALBEF and mPLUG, whose fusion, matching, masked words and prefix
  model do not interact with the mixing, and whose contrast of unmixed pairs has an EMA teacher's
  predictions among its targets (by 0.4). They answer questions and write captions; here two
  encoders search.
- encoder: one of the sizes, with means of tokens as vectors. The authors go on from CLIP's ViT-B/16
  and from BERT and take class tokens; backbones cannot be mixed here. Their common space is 256
  wide (`--method.width 256`), their pictures 256 pixels (`--resolution 256`), which are
  cropped, flipped and distorted by RandAugment; here `weak`. Captions are read up to 20 tokens.
- relevance: how well a patch fits its caption is their cosine in the common space, instead of a
  predictor that learns from the boxes and phrases of Visual Genome and COCO.
- targets: the shares of the area with label smoothing, the paper's. The released program computes
  them and trains on the mixed predictions of the unmixed pictures alone (`--method.soft 1`), from
  before a step on the unmixed pictures; here both losses are of one step and one batch.
- windows: sides of a quarter to three quarters are the defaults of the authors' class; their
  configuration begins at .35 (`--method.low 0.35`). They mix in the first 20 of 30 epochs, with a
  weight that rises from 0 to 1 during the first; here always, with one weight.
- partners are a ring drawn by the rows' seeds instead of the batch read backwards. So the way back
  has the targets transposed, which there are the same.
- temperature: the scale is at most CLIP's 100; theirs is from 2 to 1,000.
- patches are pasted after the linear map that makes tokens of them, which is the same as before it.
- any field that is not the text is mixed, a series or a table along its one line.
- recipe: one rate; theirs of the ViT is a tenth of the other one (1e-5). They warm up from 1e-6
  and end there, here from 0 to 1 % of the peak.
- open: ALBEF or mPLUG as host (fusion, matching, masked words, a teacher), and backbones whose
  patches are mixed. Waits for work.

Mixing couples rows, so mixtures go through the trunk in `losses`, once for the whole batch.
Micro-batches save memory for everything but them, and each process computes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Batch, Column, Embeddings, Ragged, Recipe, field_of, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking import mixing
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field, seed_column
from amodal.methods.shared.mixing import encode_mixed, token_columns, token_relevance
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, refuse_backbones, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.soft_info_nce import SparseTargets, soft_info_nce

PLACES = ("text", "random", "everywhere")

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.02,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=2000,
    clip=1.0,
    batch_size=1024,
    epochs=30,
)
"""Of the authors' configuration for mPLUG: 128 rows on each GPU, of which eight are taken here."""


def timix(
    encoder: Encoder,
    *,
    text_field: str = "",
    place: str = "text",
    low: float = 0.25,
    high: float = 0.75,
    alpha: float = 1.0,
    weight: float = 1.0,
    smoothing: float = 0.1,
    soft: float = 0.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> TiMix:
    """CLIP, and a contrastive loss of mixtures with both of their captions.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        text_field: The field that guides the mixing of the others. Default: the first text field.
        place: Where windows lie: by the "text", "random" (CutMix) or "everywhere" (no windows:
            mixup).
        low: Least side of the windows, as a share of the picture's; drawn for each batch.
        high: Largest side.
        alpha: Parameter of mixup's Beta distribution.
        weight: Weight of the mixed loss.
        smoothing: Label smoothing of its targets.
        soft: Share of the targets that comes from the model's predictions of the unmixed pictures
            (1 in the authors' code).
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of the inverse temperature.

    Raises:
        AmodalError: If `place` or `text_field` is unknown, or all fields to mix have pretrained
            backbones.
    """
    if place not in PLACES:
        raise unknown("timix.place", place, PLACES)
    text_field, others = pick_text_field(two_fields(encoder), text_field)
    mixed = [f for f in others if not encoder.contextual(f)]
    if not mixed:
        refuse_backbones(
            encoder,
            "timix",
            "pasting some of them into another row pastes all of what they are of",
            fields=others,
            instead="take clip",
        )
    mix = (
        partial(mixing.everywhere, alpha=alpha)
        if place == "everywhere"
        else partial(mixing.in_windows, low=low, high=high)
    )
    scale = Scale(1 / temperature, most=max_scale)
    return TiMix(
        encoder.align(width),
        scale=scale,
        text_field=text_field,
        mixed=mixed if weight else [],
        mix=mix,
        guided=place == PLACES[0],
        weight=weight,
        smoothing=smoothing,
        soft=soft,
    )


@dataclass(frozen=True, kw_only=True)
class TiMixFeatures(FeatureRecord):
    """Vectors of all sources and, of each that is mixed, its tokens before the trunk."""

    aligned: Columns  # source -> (N, D)
    inputs: Columns  # of `shared.mixing.token_columns`
    fit: Columns  # source -> N lists of (), the cosine of each token and the text
    seeds: Column  # (B,)


class TiMix(Method):
    """See `timix`.

    Args:
        text_field: The field that guides the mixing.
        mixed: The fields that are mixed.
        mix: Tokens, grids, seeds and, as `fit`, scores of tokens -> mixtures.
        guided: Whether `mix` takes scores.
        weight, smoothing, soft: As of `timix`.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        scale: Scale,
        text_field: str,
        mixed: Sequence[str],
        mix: Callable[..., mixing.Mixed],
        guided: bool,
        weight: float,
        smoothing: float,
        soft: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.text_field, self.mixed = encoder, scale, text_field, mixed
        self.mix, self.guided = mix, guided
        self.weight, self.smoothing, self.soft = weight, smoothing, soft

    def logit_scale(self) -> Scale:
        """The learned scale of cosines."""
        return self.scale

    def features(self, batch: Batch) -> TiMixFeatures:
        encoder, content = self.encoder, self.encoder.patchify(batch)
        tokens = {s: encoder.add_positions(t) for s, t in content.items()}
        context = alone(encoder, batch, tokens)
        z = vectors(encoder, context, batch.size)
        words, inputs = z[self.text_field], dict[str, Column]()
        for s in self.mixed:
            inputs |= token_columns(content[s])
        return TiMixFeatures(
            size=batch.size,
            aligned=z.columns,
            inputs=inputs,
            fit={s: token_relevance(encoder, context[s], words, batch.size) for s in self.mixed},
            seeds=seed_column(batch),
        )

    def losses(self, features: TiMixFeatures) -> dict[str, Tensor]:
        z = Embeddings(
            {s: c for s, c in features.aligned.items() if field_of(s) in self.encoder.fields},
            features.size,
        )
        t = 1 / self.scale()
        pairs = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=t) for a, b in field_pairs(z)
        }
        mixed = {
            f"mixed/{s}~{self.text_field}": self.weight * self.of_mixtures(features, s, t)
            for s in self.mixed
        }
        return share(pairs) | share(mixed)

    def of_mixtures(self, features: TiMixFeatures, s: str, temperature: Tensor) -> Tensor:
        """The mixed contrastive loss of one field with the words."""
        content, text = features.inputs[f"{s}/tokens"], features.aligned[self.text_field]
        index, text_index = shared_rows(content, text)
        content, words = content.at(index), text.flat[text_index]
        mixed = self.mixture(features, s, content, index)
        inputs = Embeddings(dict(features.inputs), features.size)
        context = encode_mixed(self.encoder, inputs, s, index, mixed.tokens)
        z = vectors(self.encoder, {s: context}, features.size)[s].flat
        targets = SparseTargets.mixup(mixed.partner, mixed.lam)
        hard: Tensor = soft_info_nce(
            z, words, targets, temperature=temperature, smoothing=self.smoothing
        )
        if not self.soft:
            return hard
        with torch.no_grad():
            unmixed = features.aligned[s]
            plain = unmixed.flat[shared_rows(unmixed, content)[0]]
            logits = normalize(plain, dim=1) @ normalize(words, dim=1).T / temperature
            likely = logits.softmax(1)
            # P times the predictions: a mixture's target is the mixture of both rows' predictions
            likely = targets.apply(likely, len(likely))
        # the same targets in both directions, as in the authors' code
        soft: Tensor = soft_info_nce(
            z, words, likely, temperature=temperature, reverse_targets=likely
        )
        return (1 - self.soft) * hard + self.soft * soft

    def mixture(
        self, features: TiMixFeatures, s: str, content: Column, index: Tensor
    ) -> mixing.Mixed:
        """Mix tokens of a field; `content` holds them, its entries `index`."""
        grid = features.inputs[f"{s}/grid"].flat[index]
        seeds = hash_bits(features.seeds.flat[content.rows], name_code(s))
        assert isinstance(content.values, Ragged)
        if not self.guided:
            return self.mix(content.values, grid, seeds)
        return self.mix(content.values, grid, seeds, fit=features.fit[s].values[index])

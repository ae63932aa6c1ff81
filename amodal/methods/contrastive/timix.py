"""TiMix: a window of one picture is pasted into another, both chosen by the captions, and the
mixture belongs to both captions. Jiang, Ye, Xu, Ye, Yan, Zhang and Zhang, AAAI 2024,
arXiv:2312.08846. What fits a caption best is pasted over what fits the other caption least; mixed
contrastive loss: cross-entropy of both directions with the shares of the area as targets. Row 79 of
the catalogue.

What differs. (1) The host is CLIP; the paper's are ALBEF and mPLUG, whose matching, masked words
and prefix model do not touch the mixing. (2) How well a patch fits its caption is their cosine in
the common space instead of a predictor that learns from boxes. (3) Partners are drawn by the rows'
seeds instead of the order of the batch. (4) Patches are pasted after the linear map that makes
tokens of them, which is the same as before it. Mixing couples rows, so mixtures go through the
trunk in `losses`, once for the whole batch: micro-batches save memory for everything but them, and
each process computes all of them."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking import mixing
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Features
from amodal.methods.shared.matching import SEED, pick_text_field, seed_column
from amodal.methods.shared.mixing import encode_mixed, token_columns, token_relevance
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.soft_info_nce import SparseTargets, soft_info_nce

PLACES = ("text", "random", "everywhere")


def timix(
    encoder: Encoder,
    *,
    words: str = "",
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
) -> Towers:
    """words: the field that guides the mixing of the others, the first text unless given; place: of
    the windows, "text", "random" (CutMix) or "everywhere" (no windows: mixup); low, high: sides of
    the windows, as shares of the picture's, drawn for each batch; alpha: of mixup's Beta; weight:
    of the mixed loss; smoothing: of its targets; soft: share of the targets that comes from what
    the model makes of the unmixed pictures (1 in the authors' code); width: of the common space;
    temperature: where the learned softmax temperature starts; max_scale: bound of its inverse."""
    if place not in PLACES:
        raise unknown("timix.place", place, PLACES)
    words, others = pick_text_field(two_fields(encoder), words)
    mixup = [f for f in others if not encoder.contextual(f)]
    if not mixup:
        raise AmodalError(
            f"timix pastes tokens of {', '.join(others)}, which come from pretrained backbones and have seen each other already. Leave a "
            "backbone out, or take clip."
        )
    mix = (
        partial(mixing.everywhere, alpha=alpha)
        if place == "everywhere"
        else partial(mixing.in_windows, low=low, high=high)
    )
    scale = Scale(1 / temperature, most=max_scale)
    method = TiMix(encoder.align(width), scale, words, mixup if weight else [])
    method.mix, method.guided = mix, place == PLACES[0]
    method.weight, method.smoothing, method.soft = weight, smoothing, soft
    return method


class TiMix(Towers):
    """Features are the vectors of all sources and, of each that is mixed, its tokens before the
    trunk and how well each fits the words."""

    def __init__(self, encoder: Encoder, scale: Scale, words: str, mixup: list[str]):
        super().__init__(encoder, self.contrast, learned=scale)
        self.words, self.mixup = words, mixup

    def features(self, batch: Batch) -> Features:
        content = self.encoder.patchify(batch)
        context = alone(
            self.encoder, batch, {s: self.encoder.add_positions(bag) for s, bag in content.items()}
        )
        z = vectors(self.encoder, context, batch.size)
        columns: dict[str, Column] = z.columns | {SEED: seed_column(batch)}
        for s in self.mixup:
            columns |= token_columns(content[s]) | {
                f"{s}/fit": token_relevance(self.encoder, context[s], z[self.words], batch.size)
            }
        return Features(columns, batch.size)

    def contrast(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings(
            {s: features[s] for s in features if field_of(s) in self.encoder.fields}, features.size
        )
        heat = 1 / self.learned()
        pairs = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=heat)
            for a, b in field_pairs(z)
        }
        return share(pairs) | share(
            {
                f"mixed/{s}~{self.words}": self.weight * self.of_mixtures(features, s, heat)
                for s in self.mixup
            }
        )

    def of_mixtures(self, features: Features, s: str, heat: Tensor) -> Tensor:
        own, words = features[f"{s}/tokens"], features[self.words]
        at, at_words = shared_rows(own, words)
        own, words = own.at(at), words.values[at_words]
        seeds = hash_bits(features[SEED].values[own.rows], name_code(s))
        how = {"fit": features[f"{s}/fit"].values[at]} if self.guided else {}
        mixup = self.mix(own.values, features[f"{s}/grid"].values[at], seeds, **how)
        z = vectors(
            self.encoder,
            {s: encode_mixed(self.encoder, features, s, at, mixup.tokens)},
            features.size,
        )[s].values
        targets = SparseTargets.mixup(mixup.partner, mixup.lam)
        hard = soft_info_nce(z, words, targets, temperature=heat, smoothing=self.smoothing)
        if not self.soft:
            return hard
        with torch.no_grad():
            plain = features[s].values[shared_rows(features[s], own)[0]]
            likely = (normalize(plain, dim=1) @ normalize(words, dim=1).T / heat).softmax(1)
            likely = targets.apply(likely, len(likely))
        # the same targets in both directions, as in the authors' code
        return (1 - self.soft) * hard + self.soft * soft_info_nce(
            z, words, likely, temperature=heat, reverse_targets=likely
        )

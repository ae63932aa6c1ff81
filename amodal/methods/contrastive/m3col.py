"""M3CoL: a classifier of several fields, steadied by mixtures of one field that must find both of
their sources in another. Kumar, Singhal, Kulkarni, Mehta and Jadhav, 2024, arXiv:2409.17777. M3Co
(their eq. 3-6), after a first share of the steps MultiSClip, cross-entropy of all fields together
and of each alone; numbers of the authors' code. Row 156 of the catalogue.

What differs. A row that lacks a field has a learned vector in its place among all fields together.
Partners are a ring drawn by the rows' seeds, so nobody is mixed with itself. Mixed inputs are
tokens before the trunk, which of pictures is the same as mixing pixels. With more than two fields
the contrast is taken between every two, weighed so that it amounts to one term for each field, as
in the authors' code. Vectors are mixed for M3Co, as in the code (the text has it that inputs are,
but for words). No dropout; one learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.mixing import beta, partners
from amodal.methods.contract import Clock, Features, Method
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.mixing import mixup_inputs, token_columns
from amodal.methods.shared.shapes import two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.late_fusion import LateFusion, shares
from amodal.objectives.mixup_nce import mixed_cross_entropy, mixup_nce, soft_clip


def m3col(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    weight: float = 0.1,
    first: float = 0.33,
    alpha: float = 0.15,
    chance: float = 0.5,
    temperature: float = 0.1,
    soft_temperature: float = 0.125,
    mixup: str = "",
    mixup_alpha: float = 0.2,
    hidden: int = 256,
) -> M3CoL:
    """label: what is to be told, a label of the data; classes: how many it has (0: counted in the
    data); weight: of the contrast; first: share of the steps with M3Co, the others have MultiSClip
    (0: MultiSClip alone, 1: M3Co alone); alpha: of the Beta that mixtures are drawn from; chance:
    that a row is mixed (0: plain InfoNCE, while M3Co lasts); temperature: of M3Co;
    soft_temperature: of MultiSClip; mixup: a field whose inputs are mixed too; mixup_alpha: of the
    Beta for it; hidden: width of the classifiers."""
    if not label or classes < 2:
        raise AmodalError(
            "m3col learns to tell classes: give label, a label of the data, and classes, at least 2"
        )
    if mixup and mixup not in encoder.fields:
        raise unknown("field", mixup, encoder.fields, "m3col was to mix its inputs.")
    if mixup and encoder.contextual(mixup):
        raise AmodalError(
            f"{mixup} has a backbone, whose tokens have seen each other already: they cannot be mixed"
        )
    method = M3CoL(two_fields(encoder), label, classes, hidden)
    method.weight, method.first, method.alpha, method.chance = weight, first, alpha, chance
    method.heat, method.soft_heat, method.mixup, method.mixup_alpha = (
        temperature,
        soft_temperature,
        mixup,
        mixup_alpha,
    )
    return method


class M3CoL(Method):
    """Features are the trunk's vectors of each source, the label, the seeds and, of a source whose
    inputs are mixed, its tokens."""

    views, min_batch_size = ("weak",), 2

    def __init__(self, encoder: Encoder, label: str, classes: int, hidden: int):
        super().__init__()
        self.encoder, self.labels = encoder, (label,)
        self.heads = LateFusion(list(encoder.fields), encoder.width, hidden, classes)
        self.register_buffer("progress", torch.zeros(()))

    def features(self, batch: Batch) -> Features:
        if self.labels[0] not in batch.labels:
            raise unknown("label of this batch", self.labels[0], batch.labels)
        columns = self.sources(batch).columns | {
            SEED: seed_column(batch),
            "label": batch.labels[self.labels[0]],
        }
        if self.mixup:
            columns |= token_columns(self.encoder.patchify(batch.only(self.mixup))[self.mixup])
        return Features(columns, batch.size)

    def sources(self, batch: Batch) -> Embeddings:
        z = self.encoder.features(batch)
        return Embeddings({f: z[f] for f in self.encoder.fields}, batch.size)

    def on_step_end(self, clock: Clock) -> None:
        self.progress.fill_(clock.progress)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z, label = (
            Embeddings({f: features[f] for f in self.encoder.fields}, features.size),
            features["label"],
        )
        other, kept = label.values, torch.ones_like(label.values, dtype=torch.float32)
        if self.mixup:
            at, at_label = shared_rows(features[f"{self.mixup}/tokens"], label)
            column, mixed = mixup_inputs(
                self.encoder, features, self.mixup, at, alpha=self.mixup_alpha
            )
            z = Embeddings(z.columns | {self.mixup: column}, z.size)
            other = other.index_copy(0, at_label, other[at_label][mixed.partner])
            kept = kept.index_copy(0, at_label, mixed.lam.float())
        kept, terms = shares(kept, self.mixup, list(z)), {}
        for name, logits in self.heads.logits(z).items():
            at, at_label = shared_rows(logits, label)
            y = (label.values[at_label], other[at_label], kept[name][at_label])
            terms[f"told/{name}"] = mixed_cross_entropy(logits.values[at], *y)
        if self.weight:
            pairs = [(a, b) for a in z for b in z if a != b]
            each, seeds = self.weight * len(z.columns) / len(pairs), features[SEED].values
            terms |= {f"contrast/{a}>{b}": each * self.contrast(z, seeds, a, b) for a, b in pairs}
        return terms

    def contrast(self, z: Embeddings, seeds: Tensor, a: str, b: str) -> Tensor:
        at, at_b = shared_rows(z[a], z[b])
        pair = z[a].values[at], z[b].values[at_b]
        if self.progress >= self.first:
            return soft_clip(*pair, temperature=self.soft_heat)
        seeds = hash_bits(seeds[z[a].rows[at]], name_code(f"{a}>{b}"))
        chosen = uniform(hash_bits(seeds, name_code("mixed"))) < self.chance
        kept = torch.where(
            chosen, beta(seeds, self.alpha), torch.ones_like(seeds, dtype=torch.float32)
        )
        return mixup_nce(*pair, partners(seeds), kept, temperature=self.heat)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """(N, classes) logits of the rows that have any source, from all that they have."""
        return self.heads(self.sources(batch))

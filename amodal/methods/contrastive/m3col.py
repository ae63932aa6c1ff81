"""M3CoL: a classifier of two or more fields, regularised by contrast with mixtures of one field.

Kumar, Singhal, Kulkarni, Mehta and Jadhav, 2024, arXiv:2409.17777. A mixture of two rows of one
field must match both of its sources in another field: M3Co (their eq. 3-6), after a first share of
the steps MultiSClip. Cross-entropy of all fields together and of each alone. Numbers of the
authors' code. Row 156 of the catalogue.

Differs:

- encoder: `--backbone picture=timm:NAME@FILE --backbone text=transformers:DIR@first
  --train-backbones` goes on from a ViT and from BERT or RoBERTa, as the authors do. What is
  classified and compared is the mean of a field's tokens in the encoder's width; theirs are the
  class tokens, 768 wide.
  For the three tables of omics they have two linear layers with a ReLU in between; `mlp` as a
  backbone is a residual perceptron with norms.
- classifiers: two hidden layers of 256, as for their pictures and texts; for omics they have one of
  768 or 1,000. Weights begin as torch has them, theirs by Xavier with zero biases. No dropout: the
  authors' is 0, or is made and not applied.
- a row that lacks a field has a learned vector in its place among all fields together; their
  records are complete.
- partners are a ring drawn by the rows' seeds, so no row is mixed with itself; theirs are any
  permutation.
- M3Co mixes vectors, as in the code. The text says inputs, but for words.
- mixed inputs (`mixup`) are tokens before the trunk. For pictures that is the same as mixing
  pixels. The authors mix texts after their encoder, for the texts' own classifier alone, and can
  mix both fields at once.
- three fields and more: the contrast is between every two, both ways, and its weight makes it
  amount to one term for each field. The authors' three are compared in a ring, one way.
- batches: the contrast is among all rows of a step, 128 in the recipe; theirs is among 32, of which
  four add up to a step.
- recipe: of N24News, for pretrained encoders (from a random start: `--recipe plain`): classifiers
  learn at twice the rate. There texts have 2e-5 and their own classifier 5e-5, for a field `text`
  `--lr-multipliers encoder.tokenizers.text.=0.4 heads.alone.text.=1 heads.=2`; on Food101 they have
  the rate of pictures. Adam's decay is decoupled here. Their plateau is of accuracy in training, by
  the epoch, and they keep the epoch that is best on validation data; here it is of the loss, by
  entries of the log (`patience`), and the last step is kept. Omics: 500 epochs of whole batches at
  2e-3 or 5e-3.
- views: pictures are cropped, texts lose words at their ends (`weak`); theirs are flipped pictures
  of 224 pixels (`--resolution 224`) and whole texts of up to 512 tokens (`--views all=plain`).
- product: classes by `amodal predict` and their accuracy by `amodal evaluate` (`head`), from all
  fields of a record or from what it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.mixing import beta, partners
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.mixing import mixup_inputs, token_columns
from amodal.methods.shared.shapes import refuse_backbones, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.late_fusion import LateFusion, shares
from amodal.objectives.mixup_nce import mixed_cross_entropy, mixup_nce, soft_clip

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-5,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    schedule="plateau",
    decay_rate=0.2,
    warmup_steps=0,
    clip=0.0,
    lr_multipliers={"heads.": 2.0},
    batch_size=128,
    epochs=25,
)
"""Of N24News, for encoders that are pretrained: the authors' configuration."""


def m3col(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    weight: float = 0.1,
    m3co_share: float = 0.33,
    alpha: float = 0.15,
    mix_probability: float = 0.5,
    temperature: float = 0.1,
    soft_temperature: float = 0.125,
    mixup: str = "",
    mixup_alpha: float = 0.2,
    hidden: int = 256,
) -> M3CoL:
    """Cross-entropy of a late fusion and of each field, with M3Co and then MultiSClip.

    Args:
        encoder: Trained in place; needs two fields.
        label: The label of the data to predict.
        classes: Number of its classes (0: counted in the data).
        weight: Weight of the contrast.
        m3co_share: Share of the steps with M3Co; the others have MultiSClip (0: MultiSClip alone,
            1: M3Co alone).
        alpha: Parameter of the Beta distribution of mixtures.
        mix_probability: Probability that a row is mixed (0: plain InfoNCE in the steps of M3Co).
        temperature: Temperature of M3Co.
        soft_temperature: Temperature of MultiSClip.
        mixup: A field whose inputs are mixed too.
        mixup_alpha: Parameter of the Beta distribution for that field.
        hidden: Width of the classifiers.

    Raises:
        AmodalError: Without a label of two classes at least, or if `mixup` is unknown or has a
            pretrained backbone.
    """
    if not label or classes < 2:
        raise AmodalError(
            "m3col learns to predict classes: set label, a label of the data, and classes, at "
            "least 2"
        )
    if mixup and mixup not in encoder.fields:
        raise unknown("field", mixup, encoder.fields, "m3col was to mix its inputs.")
    if mixup:
        refuse_backbones(
            encoder, "m3col", "they cannot be mixed", fields=[mixup], instead="set another mixup"
        )
    return M3CoL(
        two_fields(encoder),
        label=label,
        classes=classes,
        weight=weight,
        m3co_share=m3co_share,
        alpha=alpha,
        mix_probability=mix_probability,
        temperature=temperature,
        soft_temperature=soft_temperature,
        mixup=mixup,
        mixup_alpha=mixup_alpha,
        hidden=hidden,
    )


@dataclass(frozen=True, kw_only=True)
class M3CoLFeatures(FeatureRecord):
    """The trunk's vectors, the label and, of a field whose inputs are mixed, its tokens."""

    pooled: Columns  # field -> (N, D)
    inputs: Columns  # of `shared.mixing.token_columns`, empty without a field to mix
    label: Column  # (N,)
    seeds: Column  # (B,)


class M3CoL(Method):
    """See `m3col`, which has the arguments."""

    views, min_batch_size = ("weak",), 2
    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        classes: int,
        weight: float,
        m3co_share: float,
        alpha: float,
        mix_probability: float,
        temperature: float,
        soft_temperature: float,
        mixup: str,
        mixup_alpha: float,
        hidden: int,
    ):
        super().__init__()
        self.encoder, self.labels = encoder, (label,)
        self.heads = LateFusion(list(encoder.fields), encoder.width, hidden, classes)
        self.register_buffer("progress", torch.zeros(()))
        self.weight, self.m3co_share = weight, m3co_share
        self.alpha, self.mix_probability = alpha, mix_probability
        self.temperature, self.soft_temperature = temperature, soft_temperature
        self.mixup, self.mixup_alpha = mixup, mixup_alpha

    def features(self, batch: Batch) -> M3CoLFeatures:
        [label] = self.labels
        if label not in batch.labels:
            raise unknown("label of this batch", label, batch.labels)
        inputs: Columns = {}
        if self.mixup:
            inputs = token_columns(self.encoder.patchify(batch.only(self.mixup))[self.mixup])
        return M3CoLFeatures(
            size=batch.size,
            pooled=self.pooled(batch).columns,
            inputs=inputs,
            label=batch.labels[label],
            seeds=seed_column(batch),
        )

    def pooled(self, batch: Batch) -> Embeddings:
        """Field -> (N, D), the trunk's vectors."""
        z = self.encoder.features(batch)
        return Embeddings({f: z[f] for f in self.encoder.fields}, batch.size)

    def on_step_end(self, clock: Clock) -> None:
        self.progress.fill_(clock.progress)

    def losses(self, features: M3CoLFeatures) -> dict[str, Tensor]:
        z, label = Embeddings(dict(features.pooled), features.size), features.label
        other, lam = label.flat, torch.ones_like(label.flat, dtype=torch.float32)
        if self.mixup:
            z, other, lam = self.mix_inputs(features, other, lam)
        lam_of, terms = shares(lam, self.mixup, list(z)), {}
        for name, logits in self.heads.logits(z).items():
            rows, label_rows = shared_rows(logits, label)
            y = (label.flat[label_rows], other[label_rows], lam_of[name][label_rows])
            terms[f"supervised/{name}"] = mixed_cross_entropy(logits.flat[rows], *y)
        if self.weight:
            pairs = [(a, b) for a in z for b in z if a != b]
            # n fields have n (n - 1) ordered pairs, which together amount to n terms
            weight, seeds = self.weight * len(z.columns) / len(pairs), features.seeds.flat
            terms |= {f"contrast/{a}>{b}": weight * self.contrast(z, seeds, a, b) for a, b in pairs}
        return terms

    def mix_inputs(
        self, features: M3CoLFeatures, other: Tensor, lam: Tensor
    ) -> tuple[Embeddings, Tensor, Tensor]:
        """Mix the inputs of the field `mixup`, of the rows that also have a label.

        Args:
            other: (N,) the label of each row's partner.
            lam: (N,) the share of the row itself.

        Returns:
            The vectors, `other` and `lam` with those rows replaced.
        """
        columns = {**features.pooled, **features.inputs, SEED: features.seeds}
        rows, label_rows = shared_rows(features.inputs[f"{self.mixup}/tokens"], features.label)
        mixed_vectors, mixed = mixup_inputs(
            self.encoder,
            Embeddings(columns, features.size),
            self.mixup,
            rows,
            alpha=self.mixup_alpha,
        )
        return (
            Embeddings({**features.pooled, self.mixup: mixed_vectors}, features.size),
            other.index_copy(0, label_rows, other[label_rows][mixed.partner]),
            lam.index_copy(0, label_rows, mixed.lam.float()),
        )

    def contrast(self, z: Embeddings, seeds: Tensor, a: str, b: str) -> Tensor:
        """M3Co or MultiSClip, from field `a` to field `b`."""
        rows, other_rows = shared_rows(z[a], z[b])
        pair = z[a].flat[rows], z[b].flat[other_rows]
        loss: Tensor
        if self.progress >= self.m3co_share:
            loss = soft_clip(*pair, temperature=self.soft_temperature)
            return loss
        seeds = hash_bits(seeds[z[a].rows[rows]], name_code(f"{a}>{b}"))
        chosen = uniform(hash_bits(seeds, name_code("mixed"))) < self.mix_probability
        lam = torch.where(
            chosen, beta(seeds, self.alpha), torch.ones_like(seeds, dtype=torch.float32)
        )
        # eq. 3-6
        loss = mixup_nce(*pair, partners(seeds), lam, temperature=self.temperature)
        return loss

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """(N, classes) logits of the rows that have any field, from all that they have."""
        logits: Column = self.heads(self.pooled(batch))
        return logits

"""Encoders trained apart are fused late, and what a record lacks is predicted, as an embedding,
from what it has. Kim and Kim, ECCV 2024, arXiv:2407.12616: biases alone are tuned (BitFit),
read-only prompts gather what one field says of another, and VICReg trains the prediction. Row 37 of
the catalogue. The encoder must be trained beforehand, each field by itself (a run of `simclr` or
`mae`, or pretrained backbones).

What differs. Any number of fields: every ordered pair has a predictor, and a field that is lacking
is the mean of what those present predict. Prompts cannot enter a pretrained backbone here; they
read its finished tokens (see `amodal.nn.adapters.read_only_prompts`). The number of prompts, the
predictor (a perceptron with one hidden layer) and the share of hidden fields are reconstructed from
the paper's description."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import shared_rows
from amodal.masking.modality_dropout import drop_modalities
from amodal.methods.contract import Features, Method
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.shapes import share, two_fields
from amodal.nn.adapters.bitfit import bitfit
from amodal.nn.adapters.read_only_prompts import ReadOnlyPrompts
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.fill_missing import FilledFusion
from amodal.objectives.common import connected_zero
from amodal.objectives.vicreg import vicreg

TUNE = {
    "bias": bitfit,
    "none": lambda module: module.requires_grad_(False),
    "all": lambda module: module,
}


def missing_joint_embedding(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    prompts: int = 4,
    hidden: int = 256,
    weight: float = 1.0,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    drop: float = 0.3,
    tune: str = "bias",
) -> JointEmbedding:
    """label: what is to be told, a label of the data; classes: how many it has (0: counted in the
    data); prompts: read-only prompts of each field; hidden: width of the predictors; weight: of the
    prediction beside the task; invariance, variance, covariance: its VICReg (25, 0, 0 is plain
    squared error); drop: chance that the task is shown a field as predicted although it is there;
    tune: of the encoder learns its "bias" (BitFit), "none" or "all"."""
    if not label or classes < 2:
        raise AmodalError(
            "missing_joint_embedding learns to tell classes: give label, a label of the data, and classes, at least 2"
        )
    if tune not in TUNE:
        raise unknown("part of the encoder to tune", tune, TUNE)
    method = JointEmbedding(two_fields(encoder), label, classes, prompts, hidden)
    method.weight, method.drop = weight, drop
    method.scales = {"invariance": invariance, "variance": variance, "covariance": covariance}
    TUNE[tune](encoder)
    return method


class JointEmbedding(Method):
    """Features are each field's vector under its name, its prompts under `prompts/…`, the label and
    the seeds."""

    views, min_batch_size = ("weak",), 2

    def __init__(self, encoder: Encoder, label: str, classes: int, prompts: int, hidden: int):
        super().__init__()
        self.encoder, self.labels = encoder, (label,)
        self.prompts = ReadOnlyPrompts(encoder, prompts)
        self.fusion = FilledFusion(
            list(encoder.fields), encoder.width, prompts * encoder.width, hidden, classes
        )

    def features(self, batch: Batch) -> Features:
        if self.labels[0] not in batch.labels:
            raise unknown("label of this batch", self.labels[0], batch.labels)
        z, states = self.seen(batch)
        columns = z.columns | {f"prompts/{s}": states[s] for s in states}
        return Features(
            columns | {SEED: seed_column(batch), "label": batch.labels[self.labels[0]]}, batch.size
        )

    def seen(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """Of each field the vector, and the final prompts."""
        context, states = self.prompts(self.encoder, self.encoder.tokenize(batch))
        return Embeddings(self.encoder.pool(context), batch.size), Embeddings(states, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        size, fields = features.size, list(self.encoder.fields)
        z = Embeddings({s: features[s] for s in fields}, size)
        predicted = self.fusion.predict(
            Embeddings({s: features[f"prompts/{s}"] for s in fields}, size)
        )
        pairs = {
            way: Embeddings({"guess": c, "true": z[way[1]]}, size) for way, c in predicted.items()
        }
        terms = {
            f"vicreg/{a}>{b}": vicreg(*p.pair("guess", "true"), **self.scales)
            for (a, b), p in pairs.items()
        }
        kept = drop_modalities(
            {s: z[s].present(size) for s in fields}, features[SEED].values, self.drop
        )
        told, label = self.fusion(z, predicted, kept), features["label"]
        at, at_label = shared_rows(told, label)
        logits = told.values[at]
        task = cross_entropy(logits, label.values[at_label]) if len(at) else connected_zero(logits)
        return {name: self.weight * term for name, term in share(terms).items()} | {"told": task}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """(N, classes) logits of the rows that have any field; the batch may lack whole fields."""
        z, states = self.seen(batch)
        return self.fusion(z, self.fusion.predict(states), {s: z[s].present(z.size) for s in z})

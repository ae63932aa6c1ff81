"""Encoders trained apart are fused late, and what a record lacks is predicted, as an embedding,
from what it has. Kim and Kim, ECCV 2024, arXiv:2407.12616: biases alone are tuned (BitFit),
read-only prompts gather what one field knows of another, and VICReg trains the prediction. Row 37
of the catalogue. The encoder must be trained beforehand, each field by itself (a run of `simclr` or
`mae`, or pretrained backbones).

Differs:

- encoders: of any fields, trained beforehand (`--init-from` a run of `mae`, in which each field
  learns by itself) or backbones. Prompts go through all blocks of our own transformers. They cannot
  enter a backbone, such as a pretrained ViT or BERT: there they read its finished tokens, through a
  block of their own (`amodal.nn.adapters.read_only_prompts`). The mean of tokens stands for the
  class token.
- fields: any number. Every ordered pair has a predictor, and a field that is lacking is the mean of
  what those present predict; the paper has two.
- reconstructed, as there is no public code: the number of prompts, the predictor (all final prompts
  side by side, one hidden layer), the chance to hide a present field from the task, and the weights
  of VICReg, which are its own paper's.
- recipe: that of the encoder's size; the paper's could not be had, so there is no `PAPER_RECIPE`.
- tuning: BitFit, none or all; the paper compares more.
- views: `weak` of all fields.
- metrics: accuracy and F1 of one label a record by `amodal evaluate`; MM-IMDb has several.
- open: for `loss`, a text of the paper to hold the reconstruction against; for `system`, prompts
  inside a pretrained ViT or BERT, several labels a record, and the recipe. Waits for the paper's
  text, and work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.masking.modality_dropout import drop_modalities
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import seed_column
from amodal.methods.shared.shapes import share, two_fields
from amodal.methods.shared.supervised import label_columns
from amodal.nn.adapters.bitfit import bitfit
from amodal.nn.adapters.read_only_prompts import ReadOnlyPrompts
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.fill_missing import FilledFusion
from amodal.objectives.common import connected_zero
from amodal.objectives.vicreg import vicreg

TUNE: dict[str, Callable[[nn.Module], nn.Module]] = {
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
    """Build missing modality prediction.

    Args:
        encoder: Pretrained, of at least two fields.
        label: What to predict, a label of the data.
        classes: How many it has (0: counted in the data).
        prompts: Read-only prompts of each field.
        hidden: Width of the predictors.
        weight: Of the prediction beside the task.
        invariance: Of its VICReg (25, 0, 0 is plain squared error).
        variance: Of its VICReg.
        covariance: Of its VICReg.
        drop: Chance that the task gets the prediction of a field although the field is present.
        tune: What of the encoder learns: "bias" (BitFit), "none" or "all".
    """
    if not label or classes < 2:
        raise AmodalError(
            "missing_joint_embedding learns classes: give label, a label of the data, and classes, "
            "at least 2"
        )
    if tune not in TUNE:
        raise unknown("part of the encoder to tune", tune, TUNE)
    method = JointEmbedding(
        two_fields(encoder),
        label=label,
        classes=classes,
        prompts=prompts,
        hidden=hidden,
        weight=weight,
        invariance=invariance,
        variance=variance,
        covariance=covariance,
        drop=drop,
    )
    TUNE[tune](encoder)
    return method


@dataclass(frozen=True, kw_only=True)
class JointFeatures(FeatureRecord):
    """Features of missing modality prediction.

    Args:
        vectors: field -> (N, D).
        prompts: field -> (N, prompts * D), the read-only prompts at the end of the trunk.
        label: (N,) class numbers.
        seed: (B,) of the rows.
    """

    vectors: Columns
    prompts: Columns
    label: Column
    seed: Column


class JointEmbedding(Method):
    """Late fusion in which predictions take the place of missing fields.

    Args:
        encoder: Of the fields.
        label: A label of the data.
        classes: How many it has.
        prompts: Read-only prompts of each field.
        hidden: Width of the predictors.
        weight: Of the prediction beside the task.
        invariance: Of its VICReg.
        variance: Of its VICReg.
        covariance: Of its VICReg.
        drop: Chance that the task gets the prediction of a field that is present.
    """

    views, min_batch_size = ("weak",), 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        classes: int,
        prompts: int,
        hidden: int,
        weight: float,
        invariance: float,
        variance: float,
        covariance: float,
        drop: float,
    ):
        super().__init__()
        self.encoder, self.labels = encoder, (label,)
        self.prompts = ReadOnlyPrompts(encoder, prompts)
        self.fusion = FilledFusion(
            list(encoder.fields), encoder.width, prompts * encoder.width, hidden, classes
        )
        self.weight, self.drop = weight, drop
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def features(self, batch: Batch) -> JointFeatures:
        label = label_columns(batch, self.labels)[self.labels[0]]
        z, states = self.encode(batch)
        return JointFeatures(
            size=batch.size,
            vectors=z.columns,
            prompts=states.columns,
            label=label,
            seed=seed_column(batch),
        )

    def encode(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """The vector of each field, and its final prompts."""
        context, states = self.prompts(self.encoder, self.encoder.tokenize(batch))
        return Embeddings(self.encoder.pool(context), batch.size), Embeddings(states, batch.size)

    def losses(self, features: JointFeatures) -> dict[str, Tensor]:
        size, fields = features.size, list(self.encoder.fields)
        z = Embeddings({s: features.vectors[s] for s in fields}, size)
        prompts = Embeddings({s: features.prompts[s] for s in fields}, size)
        predicted = self.fusion.predict(prompts)
        terms = {}
        for (a, b), column in predicted.items():
            guess, target = both(column, z[b])
            terms[f"vicreg/{a}>{b}"] = vicreg(
                guess.flat,
                target.flat,
                invariance=self.invariance,
                variance=self.variance,
                covariance=self.covariance,
            )
        present = {s: z[s].present(size) for s in fields}
        used = drop_modalities(present, features.seed.flat, self.drop)
        logits, label = both(self.fusion(z, predicted, used), features.label)
        task = (
            cross_entropy(logits.flat, label.flat) if len(logits) else connected_zero(logits.flat)
        )
        weighted = {name: self.weight * term for name, term in share(terms).items()}
        return weighted | {"supervised": task}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """Logits (N, classes) of the rows that have any field; the batch may lack whole fields."""
        z, states = self.encode(batch)
        present = {s: z[s].present(z.size) for s in z}
        logits: Column = self.fusion(z, self.fusion.predict(states), present)
        return logits

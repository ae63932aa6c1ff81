"""STRUCTURE: frozen encoders are aligned from few pairs, by heads that preserve neighbourhoods.

Gröger, Wen, Le & Brbić, NeurIPS 2025, arXiv:2506.16895. Loss: InfoNCE between every two fields and,
for each field, `structure_loss` over all rows that have it, paired or not, with a weight that rises
over the first steps. `amodal.diagnose.neighbours` measures which layers to align. The encoder must
be trained beforehand (pretrained backbones, or weights of a run): it is frozen, and only the heads
into the common space learn. Temperature, weight and warm-up are those of the authors'
configuration. Row 92 of the catalogue.

Differs:

- layers: `amodal diagnose RUN --only layers` says which of two backbones are most alike (10 mutual
  nearest neighbours), and `--backbone image=timm:NAME/layer9@pretrained
  text=transformers:DIR@layer7` takes them. Theirs are chosen within the program.
- features: the mean of a backbone's tokens, through a linear map to the encoder's width that stays
  random. `--method.isometry true` makes it one that changes no distance, where the encoder is as
  wide as the backbone (`--size base` has 768): the heads then see what the model itself gives.
- heads: linear, with `bias` as theirs, or a perceptron with GELU (`hidden`); their other head is
  linear with a gated residual of low rank.
- divergence: that of Jensen and Shannon, the paper's. The released program takes the divergences of
  the mean from both sides, KL(m || p) + KL(m || q), in its place.
- levels: their mean without weights, as configured by the authors; `weight_by_level` is 1 / l.
- warm-up: the weight is a step ahead of theirs, which is 0 at the first.
- similarity: cosines, less the mean after normalising, as configured; the RBF and rank kernels and
  the other centrings of the ablations are not there.
- recipe: the rate is 1e-3, which a search replaces in the authors' program; its cosine goes down
  and up again every 100 epochs, and it stops early.
- duplicates: they train on one caption of each picture (`n_dup_samples: 1`).
- more than two fields: the mean over pairs and over fields.
- product: zero-shot classes (`--protocol.templates`) and retrieval by `amodal evaluate`, from the
  common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, Recipe
from amodal.methods.contract import Clock, Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.structure import structure_loss

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-4,
    betas=(0.9, 0.95),
    schedule="cosine",
    warmup_steps=0,
    clip=1.0,
    batch_size=4096,
    epochs=1000.0,
)
"""The authors' default.yaml."""


def structure_reg(
    encoder: Encoder,
    *,
    width: int = 512,
    hidden: int = 0,
    bias: bool = False,
    isometry: bool = False,
    temperature: float = 0.05,
    weight: float = 10.0,
    levels: int = 1,
    weight_by_level: bool = False,
    margin: float = 0.0,
    warmup: int = 1000,
) -> Structure:
    """InfoNCE and a structure-preserving term, on heads of a frozen encoder.

    Args:
        encoder: Already trained; gets heads into a common space; needs two fields.
        width: Width of the common space.
        hidden: Hidden width of the heads, 0 for linear ones.
        bias: Of the last layer of the heads.
        isometry: The map behind a backbone, which stays as it begins, changes no distance.
        temperature: Temperature of InfoNCE and of the neighbourhoods.
        weight: Weight of the structure term after the warm-up.
        levels: Hops of a neighbourhood.
        weight_by_level: Divide the divergence after l hops by l.
        margin: A divergence that is not penalised.
        warmup: Steps over which the weight rises.

    Raises:
        AmodalError: For an isometry without backbones, and to fewer dimensions.
    """
    if isometry:
        keep_distances(encoder)
    return Structure(
        two_fields(encoder).align(width, hidden, bias=bias),
        temperature=temperature,
        weight=weight,
        levels=levels,
        weight_by_level=weight_by_level,
        margin=margin,
        warmup=warmup,
    )


def keep_distances(encoder: Encoder) -> None:
    """Let the maps behind backbones begin as isometries.

    Raises:
        AmodalError: Without backbones, and for one that is wider than the encoder.
    """
    backbones = {f: encoder.tokenizers[f] for f in encoder.fields if encoder.contextual(f)}
    if not backbones:
        raise AmodalError("isometry is of the map behind a backbone, and no field has one")
    for field, backbone in backbones.items():
        project = backbone.project
        assert isinstance(project, nn.Linear)
        if project.in_features > project.out_features:
            raise AmodalError(
                f"the backbone of {field} gives {project.in_features} dimensions, and the encoder "
                f"has {project.out_features}; take a larger size (base has 768, large 1,024)"
            )
        nn.init.orthogonal_(project.weight)
        nn.init.zeros_(project.bias)
        # a constant beside the vectors would change their cosines
        nn.init.zeros_(encoder.field_token[field])


@dataclass(frozen=True, kw_only=True)
class StructureFeatures(FeatureRecord):
    """Vectors after and before the heads."""

    aligned: Columns  # source -> (N, D) in the common space
    frozen: Columns  # source -> (N, D) of the trunk, without a gradient


class Structure(StagedMethod):
    """See `structure_reg`, which has the arguments."""

    min_batch_size = 2
    steps: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float,
        weight: float,
        levels: int,
        weight_by_level: bool,
        margin: float,
        warmup: int,
    ):
        super().__init__()
        self.encoder, self.temperature, self.weight = encoder, temperature, weight
        self.levels, self.margin, self.warmup = levels, margin, warmup
        self.weight_by_level = weight_by_level
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.encoder.requires_grad_(False)
        assert self.encoder.heads is not None
        self.encoder.heads.requires_grad_(True)

    def features(self, batch: Batch) -> StructureFeatures:
        with torch.no_grad():
            frozen = self.encoder.features(batch)
        aligned = self.encoder.project(frozen)
        return StructureFeatures(
            size=batch.size,
            aligned=aligned.columns,
            frozen={s: frozen[s] for s in aligned},
        )

    def losses(self, features: StructureFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        pairs = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature)
            for a, b in field_pairs(z)
        }
        structure = {
            f"structure/{s}": structure_loss(
                features.frozen[s].flat,
                z[s].flat,
                temperature=self.temperature,
                levels=self.levels,
                margin=self.margin,
                weight_by_level=self.weight_by_level,
            )
            for s in z.sources
        }
        # the first step counts too, so that no step leaves the term without a gradient
        weight = self.weight * ((self.steps + 1) / max(self.warmup, 1)).clamp(max=1)
        return share(pairs) | {name: weight * term for name, term in share(structure).items()}

    def on_step_end(self, clock: Clock) -> None:
        self.steps.fill_(clock.step)

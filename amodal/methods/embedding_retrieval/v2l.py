"""V2L: two encoders side by side, one that learns from vision and one that learns from language,
make one vector. Wang, Sun, Yang and Yang, 2022, arXiv:2207.12994. The vision encoder learns coarse
categories by a softmax with a margin (CosFace, arXiv:1801.09414), then tells every record from all
others by two views of it; the other learns CLIP's loss between the fields of a record. Both are
pooled by GeM; unit vectors are put end to end. Row 129 of the catalogue. More models, weighted, of
any method: `amodal search RUN --ensemble RUN2 RUN3 --ensemble-weights 2,1,1`.

Differs:

- encoders: one of each kind, of one architecture, that begin with the same weights and are trained
  in one run. The winners of the challenge put some twenty pretrained ones together, each trained by
  itself, so that their errors differ for more reasons than the loss; so do runs of any methods and
  backbones that are searched as an ensemble.
- fields: both encoders read all fields, so that titles can be searched by too; the paper keeps
  pictures alone. The margin and the views are those of each field.
- losses: the report names the stages and leaves out their formulas and numbers, and the repository
  holds no program. CosFace with its margin and a scale of 30, NT-Xent between a weak and a strong
  view to tell records apart, and CLIP's loss of weak views are ours, as are equal shares of the
  losses and half of the steps for each stage.
- head: a linear map; no normalised neck, no triplets.
- test time: no averaging over flips and sizes. The two encoders of a run weigh the same; runs that
  are searched or evaluated as an ensemble have weights, which nobody chooses by validation.
- eProduct and its measure MAR@10 are not bundled.
- recipe: none is published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, view_of
from amodal.core.column import both
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields, view_pairs
from amodal.methods.shared.supervised import label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.margin_softmax import margin_softmax

ENCODER = {"pool": "gem"}


def v2l(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    coarse: float = 0.5,
    margin: float = 0.35,
    sharpness: float = 30.0,
    view_temperature: float = 0.1,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> V2l:
    """Build V2L.

    Args:
        encoder: Of at least two fields; two of its kind make the ensemble.
        label: Of the data, a coarse category; without it there is no coarse stage.
        classes: How many it has.
        coarse: Share of the steps in which it is learnt (1: all).
        margin: Of the softmax over categories.
        sharpness: Scale of the cosines of that softmax.
        view_temperature: Of the loss between views.
        width: Of each encoder's vector.
        temperature: Where the learned softmax temperature between fields starts.
        max_scale: Bound of its inverse.
    """
    if not 0 < coarse <= 1 or (label and classes < 2):
        raise AmodalError(
            f"v2l needs coarse above 0 and up to 1, and two classes of {label!r}, not {coarse} and "
            f"{classes}"
        )
    return V2l(
        Ensemble.of(two_fields(encoder).align(width), 2),
        Scale(1 / temperature, most=max_scale),
        label=label,
        classes=classes,
        coarse=coarse,
        margin=margin,
        sharpness=sharpness,
        view_temperature=view_temperature,
    )


@dataclass(frozen=True, kw_only=True)
class EnsembleFeatures(FeatureRecord):
    """Vectors of both encoders.

    Args:
        visual: source -> (N, D), of the encoder that learns from views or categories.
        language: source -> (N, D), of the encoder that learns from other fields.
        label: (N,) in the coarse stage.
    """

    visual: Columns
    language: Columns
    label: Column | None = None


class V2l(StagedMethod):
    """Two encoders with different losses, whose vectors are put end to end.

    Args:
        encoder: Of two members.
        scale: The learned inverse temperature between fields.
        label: A coarse category; "" for no coarse stage.
        classes: How many it has.
        coarse: Share of the steps in which it is learnt.
        margin: Of the softmax over categories.
        sharpness: Scale of its cosines.
        view_temperature: Of the loss between views.
    """

    encoder: Ensemble  # type: ignore[assignment]  # has what others use of an encoder
    views, min_batch_size = ("weak", "strong"), 2

    def __init__(
        self,
        encoder: Ensemble,
        scale: Scale,
        *,
        label: str,
        classes: int,
        coarse: float,
        margin: float,
        sharpness: float,
        view_temperature: float,
    ):
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.prototypes = (
            nn.Parameter(torch.randn(classes, encoder.first.heads_width)) if label else None
        )
        self.labels = (label,) if label else ()
        self.margin, self.sharpness, self.view_temperature = margin, sharpness, view_temperature
        self.stages = (coarse, 1.0) if label and coarse < 1 else (1.0,)
        self.always_coarse = bool(label) and coarse == 1
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.coarse = self.always_coarse or (len(self.stages) > 1 and stage == 0)
        if self.prototypes is not None:
            self.prototypes.requires_grad_(self.coarse)

    def features(self, batch: Batch) -> EnsembleFeatures:
        # two views are for telling records apart alone; categories and fields need one
        first = batch.only(*(s for s in batch.sources if view_of(s) <= 1))
        visual, language = self.encoder.members
        a, b = visual(first if self.coarse else batch), language(first)
        return EnsembleFeatures(
            size=batch.size,
            visual={s: a[s] for s in a.sources},
            language={s: b[s] for s in b.sources},
            label=label_columns(batch, self.labels)[self.labels[0]] if self.coarse else None,
        )

    def losses(self, features: EnsembleFeatures) -> dict[str, Tensor]:
        visual = Embeddings(dict(features.visual), features.size)
        language = Embeddings(dict(features.language), features.size)
        across = {
            f"info_nce/{a}~{b}": info_nce(*language.pair(a, b), temperature=1 / self.scale())
            for a, b in field_pairs(language)
        }
        if features.label is None:
            within = {
                f"nt_xent/{field_of(a)}": nt_xent(
                    *visual.pair(a, b), temperature=self.view_temperature
                )
                for a, b in view_pairs(visual)
            }
        else:
            within = {
                f"margin/{field_of(s)}": self.category_loss(visual[s], features.label)
                for s in visual
            }
        return share(across) | share(within)

    def category_loss(self, vectors: Column, label: Column) -> Tensor:
        """Softmax with a margin over the coarse categories."""
        assert self.prototypes is not None
        z, y = both(vectors, label)
        return margin_softmax(
            z.flat, self.prototypes, y.flat, scale=self.sharpness, margin=self.margin
        )

"""MERL: signals are aligned with their reports, and two latent dropouts with each other.

Liu et al., ICML 2024, arXiv:2403.06659. Loss: cross-modal alignment (CMA) plus uni-modal alignment
(UMA). The two views of UMA are made in the latent space, a linear map and a dropout each, since a
signal that is cut or distorted may lose its diagnostic content. Row 9 of the catalogue.

Findings by prompts that are enriched from a knowledge base: `amodal predict RUN --multi-label
--classes FILE` (docs/predicting.md). Their AUC: `amodal evaluate RUN --protocols zero_shot`.

Differs:

- signals: `resnet1d` as a backbone is the kind of the authors' ResNet-18, and learns from scratch
  (`--backbone ecg=resnet1d:width=64,stages=4,blocks=2,stem=2`), with one residual design of its
  own; without it a transformer reads patches of all leads. The authors' other encoder, a ViT over
  patches of 12 leads, has no prepended token either.
- pooling: attention of learned queries without a position or a class token, for all fields. The
  latent views begin at the mean of the tokens of width D; the authors first reduce the channels of
  a ResNet to 256.
- heads: a perceptron with GELU, the authors' of text, for every field. After their ResNet's
  attention there is one linear map, after their ViT a perceptron with two BatchNorms.
- text: `--backbone report=transformers:DIR` with Med-CPT's weights, whose tokens are pooled as
  above; the authors take its pooled vector, at most 256 tokens, and freeze it or half of it.
- loss: the authors add the two directions of each loss. Here they are averaged, a constant factor
  of both terms. With several processes their gradient is that of each process's own rows alone.
- recipe: one cosine, to 1 % of the rate; theirs begins anew every 5,000 steps and ends at 1e-8.
  Weight decay is of matrices alone.
- any fields: every two are aligned, and each that is not text has latent views.
- data: no reader of WFDB files; leads come as arrays or columns (docs/data.md).
- product: prompts come from a file of phrases, which the authors have an LLM write from SNOMED CT
  and SCP-ECG; here it is the user's. All phrases follow the name, in one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Recipe, field_of, name_code
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "attention"}

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-8,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=0,
    clip=0.0,
    batch_size=1024,
    epochs=20.0,
)
"""The released configuration of the ViT: 128 rows on each of 8 GPUs."""


def merl(
    encoder: Encoder,
    *,
    weight: float = 1.0,
    dropout: float = 0.1,
    width: int = 256,
    hidden: int = 256,
    temperature: float = 0.07,
) -> Merl:
    """InfoNCE between every two fields, and between two latent views of each.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        weight: Weight of the latent views' loss (0 is cross-modal alignment alone).
        dropout: Dropout of each latent view.
        width: Width of the common space and of the latent views.
        hidden: Hidden width of the heads.
        temperature: Temperature of both losses, fixed.
    """
    fields = [f for f, m in two_fields(encoder).fields.items() if not m.takes_prompts] or list(
        encoder.fields
    )
    return Merl(
        encoder.align(width, hidden),
        fields=fields,
        weight=weight,
        dropout=dropout,
        temperature=temperature,
    )


@dataclass(frozen=True, kw_only=True)
class MerlFeatures(FeatureRecord):
    """Vectors in the common space, and two latent views of some of them."""

    aligned: Columns  # source -> (N, D)
    latent_1: Columns  # source -> (N, D)
    latent_2: Columns  # source -> (N, D)


class Merl(Method):
    """See `merl`.

    Args:
        fields: The fields that have latent views.
        weight, dropout, temperature: As of `merl`.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        fields: Sequence[str],
        weight: float,
        dropout: float,
        temperature: float,
    ):
        super().__init__()
        self.encoder, self.weight = encoder, weight
        self.dropout, self.temperature = dropout, temperature
        widths = encoder.width, encoder.heads_width
        self.latent_maps = nn.ModuleDict(
            {f: nn.ModuleList(nn.Linear(*widths, bias=False) for _ in range(2)) for f in fields}
        )

    def features(self, batch: Batch) -> MerlFeatures:
        context = alone(self.encoder, batch)
        latent: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
        for source in (s for s in batch.sources if self.weight and field_of(s) in self.latent_maps):
            mean = field_pool(self.encoder, source).strip(context[source]).pool()
            maps = self.latent_maps[field_of(source)]
            assert isinstance(maps, nn.ModuleList)
            for number, linear in enumerate(maps):
                code = name_code(f"latent {source} {number}")
                view = seeded_dropout(linear(mean.flat), batch.seeds[mean.rows], self.dropout, code)
                latent[number][source] = Column(view, mean.rows)
        return MerlFeatures(
            size=batch.size,
            aligned=vectors(self.encoder, context, batch.size).columns,
            latent_1=latent[0],
            latent_2=latent[1],
        )

    def losses(self, features: MerlFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        cross_modal = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature)
            for a, b in field_pairs(z)
        }
        uni_modal = {
            f"latent/{s}": self.weight
            * info_nce(column.flat, features.latent_2[s].flat, temperature=self.temperature)
            for s, column in features.latent_1.items()
        }
        return share(cross_modal) | share(uni_modal)

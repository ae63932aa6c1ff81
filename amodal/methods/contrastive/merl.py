"""MERL: signals are aligned with their reports, and two latent dropouts with each other.

Liu et al., ICML 2024, arXiv:2403.06659. Loss: cross-modal alignment (CMA) plus uni-modal alignment
(UMA). The two views of UMA are made in the latent space, a linear map and a dropout each, since a
signal that is cut or distorted may lose its diagnostic content. Row 9 of the catalogue. Prompts
that are enriched from a knowledge base, for zero-shot tests: `amodal.evaluate.knowledge_prompts`.

Differs:
- Any fields: every two are aligned, and each that is not text has latent views.
- A transformer for the ResNet. Its pooling is the attention of learned queries, with a mean of its
  tokens for the latent views. Heads of one shape for all fields.
- The authors add the two directions of each loss. Here they are averaged, a constant factor of both
  terms.
- The authors freeze the text encoder or half of it, which is a matter of the backbone here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, field_of, name_code
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "attention"}


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

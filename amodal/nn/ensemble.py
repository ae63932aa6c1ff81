"""An ensemble of encoders, which is used like one encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import LinearHead


class Ensemble(Part):
    """Encoders of one architecture, whose unit vectors are concatenated.

    The cosine of two concatenated vectors is the mean of the members' cosines.

    Args:
        members: At least one. Heads must be linear, so that a unit vector of features gives the
            direction that the features give.

    Raises:
        AmodalError: For other heads.
    """

    def __init__(self, members: Sequence[Encoder]):
        super().__init__()
        for head in (h for m in members for h in (m.heads or {}).values()):
            if not isinstance(head, LinearHead):
                raise AmodalError(
                    "encoders are put side by side with linear heads only; leave other heads out"
                )
        self.members = nn.ModuleList(members)

    @staticmethod
    def of(encoder: Encoder, members: int) -> Ensemble:
        """The encoder and copies of it, which begin with the same weights."""
        return Ensemble([encoder, *(copy.deepcopy(encoder) for _ in range(members - 1))])

    @property
    def first(self) -> Encoder:
        """The first member."""
        return cast(Encoder, self.members[0])

    def forward(self, batch: Batch) -> Embeddings:
        """See `Encoder.forward`."""
        return self.project(self.features(batch))

    def features(self, batch: Batch) -> Embeddings:
        """See `Encoder.features`."""
        return _concatenated([cast(Encoder, member).features(batch) for member in self.members])

    def project(self, features: Embeddings) -> Embeddings:
        """See `Encoder.project`."""
        if self.heads is None:
            return features
        return _concatenated(
            [cast(Encoder, m).project(self.part(features, i)) for i, m in enumerate(self.members)]
        )

    def part(self, features: Embeddings, number: int) -> Embeddings:
        """The features of one member."""
        columns = {
            s: Column(torch.split(c.flat, self.width, 1)[number], c.rows)
            for s, c in features.columns.items()
        }
        return Embeddings(columns, features.size)

    # What all members have in common

    @property
    def fields(self) -> Mapping[str, Modality]:
        """See `Encoder`."""
        return self.first.fields

    @property
    def size(self) -> str:
        """See `Encoder`."""
        return self.first.size

    @property
    def trunk(self) -> str:
        """See `Encoder`."""
        return self.first.trunk

    @property
    def width(self) -> int:
        """Of each member."""
        return self.first.width

    @property
    def space_width(self) -> int:
        """See `Encoder.space_width`."""
        return self.first.space_width * len(self.members)

    def feature_width(self, field: str) -> int:
        """See `Encoder.feature_width`."""
        return self.first.feature_width(field) * len(self.members)

    @property
    def heads(self) -> nn.ModuleDict | None:
        """Of the first member."""
        return self.first.heads

    @property
    def tokenizers(self) -> nn.ModuleDict:
        """Of the first member."""
        return self.first.tokenizers

    @property
    def similarity(self) -> str:
        """See `Encoder`."""
        return self.first.similarity

    @property
    def multi_vector(self) -> Part | None:
        """Of the first member."""
        return self.first.multi_vector

    @property
    def combiner(self) -> nn.Module | None:
        """Of the first member."""
        return self.first.combiner

    def pretrained(self, field: str) -> bool:
        """See `Encoder.pretrained`."""
        return self.first.pretrained(field)

    def contextual(self, field: str) -> bool:
        """See `Encoder.contextual`."""
        return self.first.contextual(field)


def _concatenated(parts: Sequence[Embeddings]) -> Embeddings:
    """The unit vectors of several encoders for the same rows, one after another; those of one as
    they are."""
    if len(parts) == 1:
        return parts[0]
    columns = {
        s: Column(torch.cat([normalize(z[s].flat, dim=1) for z in parts], 1), parts[0][s].rows)
        for s in parts[0]
    }
    return Embeddings(columns, parts[0].size)

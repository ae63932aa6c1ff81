"""Encoders side by side, as one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.core.part import Part
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import LinearHead


class Ensemble(Part):
    """Several encoders of one make: features are the unit vectors of all of them end to end, and so
    are vectors in the space of the heads, whose cosine is then the mean of theirs.

    Args:
        members: At least one. Heads must be linear, so that a unit vector of features gives the
        direction that the features give.
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
        return self.members[0]

    def forward(self, batch: Batch) -> Embeddings:
        """See `Encoder.forward`."""
        return self.project(self.features(batch))

    def features(self, batch: Batch) -> Embeddings:
        """See `Encoder.features`."""
        return _end_to_end([member.features(batch) for member in self.members])

    def project(self, features: Embeddings) -> Embeddings:
        """See `Encoder.project`."""
        if self.heads is None:
            return features
        return _end_to_end([m.project(self.part(features, i)) for i, m in enumerate(self.members)])

    def part(self, features: Embeddings, number: int) -> Embeddings:
        """What one member gave of the features of all."""
        columns = {
            s: Column(c.values.split(self.width, 1)[number], c.rows)
            for s, c in features.columns.items()
        }
        return Embeddings(columns, features.size)

    # What all members have in common

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.first.fields

    @property
    def size(self) -> str:
        return self.first.size

    @property
    def trunk(self) -> str:
        return self.first.trunk

    @property
    def width(self) -> int:
        """Of each member."""
        return self.first.width

    @property
    def space_width(self) -> int:
        return self.first.space_width * len(self.members)

    def feature_width(self, field: str) -> int:
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
        return self.first.similarity

    @property
    def multi_vector(self) -> Part | None:
        return self.first.multi_vector

    @property
    def combiner(self) -> nn.Module | None:
        return self.first.combiner

    def contextual(self, field: str) -> bool:
        """See `Encoder.contextual`."""
        return self.first.contextual(field)


def _end_to_end(each: Sequence[Embeddings]) -> Embeddings:
    """The unit vectors of several encoders for the same rows, one after another; those of one as
    they are."""
    if len(each) == 1:
        return each[0]
    columns = {
        s: Column(torch.cat([normalize(e[s].values, dim=1) for e in each], 1), each[0][s].rows)
        for s in each[0]
    }
    return Embeddings(columns, each[0].size)

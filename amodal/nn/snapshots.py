"""An encoder and copies of it from earlier in its training, whose vectors are added up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Column, Embeddings
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.part import Part
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble


class Snapshots(Ensemble):
    """A snapshot ensemble (Huang et al. 2017, arXiv:1704.00109): the encoder that is trained, and
    the last copies that were taken of it.

    In training mode it is that encoder alone. In evaluation mode aligned vectors are the sum of the
    unit vectors of all, and features stand one after another.

    Args:
        members: The encoder, then those that hold copies.
    """

    taken: Tensor

    def __init__(self, members: Sequence[Encoder]):
        Part.__init__(self)  # that of an ensemble asks for linear heads, which are not needed here
        self.members = nn.ModuleList(members)
        for member in self.members[1:]:
            member.requires_grad_(False)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def of(encoder: Encoder, members: int) -> Snapshots:
        """The encoder, and room for `members` - 1 copies of it."""
        return Snapshots([encoder, *(copy.deepcopy(encoder) for _ in range(members - 1))])

    def take(self) -> None:
        """Copy the encoder; the oldest copy goes when there is no room."""
        slot = 1 + int(self.taken) % (len(self.members) - 1)
        self.members[slot].load_state_dict(self.first.state_dict())
        self.taken += 1

    @property
    def active(self) -> list[Encoder]:
        """The encoder, and in evaluation mode the copies that have been taken."""
        count = 0 if self.training else min(int(self.taken), len(self.members) - 1)
        return [cast(Encoder, m) for m in self.members[: 1 + count]]

    def features(self, batch: Batch) -> Embeddings:
        """See `Encoder.features`."""
        parts = [member.features(batch) for member in self.active]
        columns = {
            s: Column(torch.cat([vectors_of(z[s]) for z in parts], 1), parts[0][s].rows)
            for s in parts[0]
        }
        return Embeddings(columns, parts[0].size)

    def project(self, features: Embeddings) -> Embeddings:
        """See `Encoder.project`."""
        members = self.active
        parts = [m.project(self.part(features, i)) for i, m in enumerate(members)]
        if len(members) == 1:
            return parts[0]
        columns = {
            s: Column(
                torch.stack([normalize(vectors_of(z[s]), dim=1) for z in parts]).sum(0),
                parts[0][s].rows,
            )
            for s in parts[0]
        }
        return Embeddings(columns, features.size)

    @property
    def space_width(self) -> int:
        """See `Encoder.space_width`."""
        return self.first.space_width

    def feature_width(self, field: str) -> int:
        """See `Encoder.feature_width`."""
        return self.first.feature_width(field) * len(self.active)

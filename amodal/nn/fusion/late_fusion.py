"""Late fusion by concatenation, with a head of its own for each field: classifiers on top of
single-field encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings


def side_by_side(absent: Mapping[str, Tensor], z: Embeddings) -> Column:
    """(N, fields x D): of the rows that have any of the fields of `absent`, in the place of which a
    row that lacks one has its (D,)."""
    there = [s for s in absent if s in z]  # a source that no batch brings is one that all rows lack
    rows = torch.stack([z[s].present(z.size) for s in there]).any(0).nonzero().squeeze(1)
    filled = {s: gone.to(z[there[0]].values.dtype).expand(z.size, -1) for s, gone in absent.items()}
    filled |= {s: filled[s].index_copy(0, z[s].rows, z[s].values) for s in there}
    return Column(torch.cat(list(filled.values()), 1)[rows], rows)


def classifier(width: int, hidden: int, classes: int) -> nn.Sequential:
    """Two hidden layers of `hidden`: (N, width) -> (N, classes)."""
    steps = [
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    ]
    return nn.Sequential(*steps)


class LateFusion(nn.Module):
    """Classifiers of vectors of width D: `fused` of those of all fields side by side, `alone` of
    each. A learned vector stands in the place of a field that a row lacks."""

    def __init__(self, fields: Sequence[str], width: int, hidden: int, classes: int):
        super().__init__()
        self.fused = classifier(width * len(fields), hidden, classes)
        self.alone = nn.ModuleDict({s: classifier(width, hidden, classes) for s in fields})
        self.absent = nn.ParameterDict({s: nn.Parameter(torch.randn(width) * 0.02) for s in fields})

    def together(self, z: Embeddings) -> Column:
        """(N, fields x D): of the rows that have any field."""
        return side_by_side(self.absent, z)

    def forward(self, z: Embeddings) -> Column:
        """(N, classes) logits from all that each row has, of the rows that have any field."""
        together = self.together(z)
        return Column(self.fused(together.values), together.rows)

    def logits(self, z: Embeddings) -> dict[str, Column]:
        """`fused` and each field -> (N, classes)."""
        return {"fused": self(z)} | {
            s: Column(head(z[s].values), z[s].rows) for s, head in self.alone.items()
        }


def shares(own: Tensor, mixed: str, fields: Sequence[str]) -> dict[str, Tensor]:
    """The share of each label that stays, where only the inputs of the field `mixed` are mixtures
    that keep `own`: all of it for the other fields, the mean over fields for the fused vectors
    (Kumar et al. 2024, arXiv:2409.17777)."""
    whole = torch.ones_like(own)
    return {"fused": 1 - (1 - own) / len(fields)} | {
        s: own if s == mixed else whole for s in fields
    }

"""Late fusion by concatenation, and classifiers on top of single-field encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings


def side_by_side(absent: Mapping[str, Tensor] | nn.ParameterDict, z: Embeddings) -> Column:
    """Concatenate the vectors of fields.

    Args:
        absent: Field -> (D,), its vector in rows that lack it.
        z: Vectors of some of the fields.

    Returns:
        (N, fields x D), of the rows that have any of the fields.
    """
    present = [s for s in absent if s in z]  # a field that is not in the batch, all rows lack
    rows = torch.stack([z[s].present(z.size) for s in present]).any(0).nonzero().squeeze(1)
    filled = {
        s: vector.to(z[present[0]].flat.dtype).expand(z.size, -1) for s, vector in absent.items()
    }
    # `absent` for all rows, then over it what there is: its gradient comes from the rows that lack
    # s
    filled |= {s: filled[s].index_copy(0, z[s].rows, z[s].flat) for s in present}
    return Column(torch.cat(list(filled.values()), 1)[rows], rows)


def classifier(width: int, hidden: int, classes: int) -> nn.Sequential:
    """A perceptron with two hidden layers: (N, width) -> (N, classes)."""
    steps = [
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    ]
    return nn.Sequential(*steps)


class LateFusion(nn.Module):
    """A classifier of the vectors of all fields side by side, and one of each field.

    A learned vector replaces a field that a row lacks.

    Args:
        fields: The fields.
        width: D of the vectors.
        hidden: Of the classifiers.
        classes: Their outputs.
    """

    def __init__(self, fields: Sequence[str], width: int, hidden: int, classes: int):
        super().__init__()
        self.fused = classifier(width * len(fields), hidden, classes)
        self.alone = nn.ModuleDict({s: classifier(width, hidden, classes) for s in fields})
        self.absent = nn.ParameterDict({s: nn.Parameter(torch.randn(width) * 0.02) for s in fields})

    def concatenated(self, z: Embeddings) -> Column:
        """(N, fields x D), of the rows that have any field."""
        return side_by_side(self.absent, z)

    def forward(self, z: Embeddings) -> Column:
        """(N, classes) logits from all fields of a row, of the rows that have any."""
        vectors = self.concatenated(z)
        return Column(self.fused(vectors.flat), vectors.rows)

    def logits(self, z: Embeddings) -> dict[str, Column]:
        """`fused` and each field -> (N, classes)."""
        return {"fused": self(z)} | {
            s: Column(head(z[s].values), z[s].rows) for s, head in self.alone.items()
        }


def shares(lam: Tensor, mixed: str, fields: Sequence[str]) -> dict[str, Tensor]:
    """The share of each label that stays, where only the inputs of one field are mixed.

    Kumar et al. 2024, arXiv:2409.17777.

    Args:
        lam: (N,) share of a mixture that is its row's own.
        mixed: The field whose inputs are mixed.
        fields: All fields.

    Returns:
        Field -> (N,), 1 for those that are not mixed; `fused` -> the mean over fields.
    """
    whole = torch.ones_like(lam)
    # of n fields one has the share lam and n - 1 have 1
    return {"fused": 1 - (1 - lam) / len(fields)} | {
        s: lam if s == mixed else whole for s in fields
    }

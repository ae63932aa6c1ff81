"""The Combiner of CLIP4Cir: a reference and a change to it, as one vector.

Baldrati et al., CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core.part import Part
from amodal.nn.drop_path import identity
from amodal.nn.hidden_dropout import Dropout


class Combiner(Part):
    """c = normalize(g v + (1 - g) m + W h), for composed queries.

    v and m are the unit vectors of the reference and of the change, v' and m' perceptrons of them,
    g = sigmoid(gate([v', m'])), h = relu(mix([v', m'])). In training, entries of v', m', h and of
    the hidden layer of the gate are dropped (of one half in the published one).

    Args:
        width: D.
        project: Width of v' and m'.
        hidden: Width of h.
        change: The field that changes are of.
    """

    def __init__(self, width: int, project: int, hidden: int, change: str = ""):
        super().__init__()
        self.change_field = change
        self.reference, self.change = (
            nn.Sequential(nn.Linear(width, project), nn.ReLU()) for _ in range(2)
        )
        self.mix = nn.Sequential(
            nn.Linear(2 * project, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.gate = nn.Sequential(nn.Linear(2 * project, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, v_ND: Tensor, m_ND: Tensor, dropout: Dropout = identity) -> Tensor:
        """Combine.

        Args:
            v_ND: References.
            m_ND: Changes.
            dropout: Of the hidden layers: places 0 and 1 are v' and m', 2 is h and 3 the gate's.

        Returns:
            (N, D) of length 1.
        """
        v, m = normalize(v_ND, dim=1), normalize(m_ND, dim=1)
        both = torch.cat([dropout(self.reference(v), 0), dropout(self.change(m), 1)], 1)
        g = self.gate[2](dropout(self.gate[:2](both), 3)).sigmoid()
        mixed = self.mix[2](dropout(self.mix[:2](both), 2))
        return normalize(g * v + (1 - g) * m + mixed, dim=1)

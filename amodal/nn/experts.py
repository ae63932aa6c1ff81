"""A sparse layer: each token goes through the expert that its router prefers.

Riquelme et al. 2021, arXiv:2106.05974 (V-MoE); Mustafa et al. 2022, arXiv:2206.02770 (LIMoE), with
one expert a token. There an expert has a capacity, and leaves out the tokens of lowest router
probability when it is full ("batch priority routing"). Counted within a batch, that would make a
token depend on the tokens beside it, on the size of micro-batches and on the number of processes.
Here a token is left out below a threshold of its expert. Thresholds are state: they are found in
the last batch (`thresholds`), used for the next, and the same for every row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear


class Experts(nn.Module):
    """y = p_e(x) MLP_e(x), e = argmax p, p = softmax(W x), and 0 for a token that is left out.

    Args:
        width: D.
        hidden: Width of an expert's hidden layer.
        experts: E.

    Attributes:
        threshold: (E,) those of p; all 0 at the start.
    """

    threshold: Tensor

    def __init__(self, width: int, hidden: int, experts: int):
        super().__init__()
        self.experts = experts
        self.router = nn.Parameter(torch.randn(experts, width) * 0.02)
        self.up, self.down = (
            nn.Parameter(torch.empty(experts, *s)) for s in ((width, hidden), (hidden, width))
        )
        self.up_bias, self.down_bias = (
            nn.Parameter(torch.zeros(experts, n)) for n in (hidden, width)
        )
        for weight in (*self.up, *self.down):
            nn.init.xavier_uniform_(weight)
        self.register_buffer("threshold", torch.zeros(experts))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D) -> (T, D), and the router's logits (T, E).

        Logits are in float32 or better: rounded ones would send tokens elsewhere.
        """
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = linear(x_TD.to(self.router.dtype), self.router)
        surest_T, expert_T = logits_TE.softmax(1).max(1)
        # number E stands for no expert; such a token goes on by the block's residual alone
        goes_T = torch.where(surest_T >= self.threshold[expert_T], expert_T, self.experts)
        # grouped by expert, so that each expert is one product, and put back by the inverse
        # permutation
        order = torch.argsort(goes_T, stable=True)
        counts = torch.bincount(goes_T, minlength=self.experts + 1).tolist()
        *parts, left_out = torch.split(x_TD[order], counts)
        done = [
            torch.addmm(b, gelu(torch.addmm(a, x, up)), down)
            for x, up, a, down, b in zip(parts, self.up, self.up_bias, self.down, self.down_bias)
        ]
        y_TD = torch.cat([*done, torch.zeros_like(left_out)])[torch.argsort(order)]
        # argmax has no gradient; this factor is how the router learns
        return y_TD * surest_T.to(y_TD.dtype).unsqueeze(1), logits_TE


def sparse_layers(trunk: nn.Module) -> list[Experts]:
    """The sparse layers of a trunk, first to last."""
    return [module for module in trunk.modules() if isinstance(module, Experts)]


def thresholds(surest_T: Tensor, expert_T: Tensor, experts: int, capacity: float) -> Tensor:
    """Router probabilities below which tokens are left out, by the tokens of a batch.

    Args:
        surest_T: (T,) the highest router probability of each token.
        expert_T: (T,) int64, its expert.
        experts: E.
        capacity: An expert takes capacity * T / E of the tokens at most.

    Returns:
        (E,), 0 for an expert that would take fewer.
    """
    room = max(1, round(capacity * len(surest_T) / experts))
    least = surest_T.new_zeros(experts)
    for e in range(experts):
        mine = surest_T[expert_T == e]
        if len(mine) > room:
            least[e] = mine.topk(room).values[-1]
    return least

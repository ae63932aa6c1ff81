"""A sparse layer: of several perceptrons, each token goes through the one that its router is surest
of.

Riquelme et al. 2021, arXiv:2106.05974 (V-MoE); Mustafa et al. 2022, arXiv:2206.02770 (LIMoE), with
one expert a token.

An expert has room for so many tokens, and those that the router is less sure of are left out when
it is full ("batch priority routing"). Counted within a batch that would make what a token becomes
depend on the tokens beside it, on the size of micro-batches and on the number of processes. Here
being left out is a matter of a threshold for each expert, which is state: found in the last batch
(`thresholds`), used for the next, and the same for every row. No threshold, no token left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear


class Experts(nn.Module):
    """y = p_e(x) MLP_e(x), e = argmax p, p = softmax(W x): (T, D) -> (T, D), and 0 for a token that
    is left out.

    least: (E,) how sure of an expert the router must be; all 0 at the start.
    """

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
        for each in (*self.up, *self.down):
            nn.init.xavier_uniform_(each)
        self.register_buffer("least", torch.zeros(experts))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Also returns the router's logits (T, E), in float32 or better: rounded, they would send
        tokens elsewhere."""
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = linear(x_TD.to(self.router.dtype), self.router)
        surest_T, expert_T = logits_TE.softmax(1).max(1)
        goes_T = torch.where(surest_T >= self.least[expert_T], expert_T, self.experts)
        order = torch.argsort(goes_T, stable=True)
        counts = torch.bincount(goes_T, minlength=self.experts + 1).tolist()
        *parts, left_out = x_TD[order].split(counts)
        done = [
            torch.addmm(b, gelu(torch.addmm(a, x, up)), down)
            for x, up, a, down, b in zip(parts, self.up, self.up_bias, self.down, self.down_bias)
        ]
        y_TD = torch.cat([*done, torch.zeros_like(left_out)])[torch.argsort(order)]
        return y_TD * surest_T.to(y_TD.dtype).unsqueeze(1), logits_TE


def thresholds(surest_T: Tensor, expert_T: Tensor, experts: int, capacity: float) -> Tensor:
    """(E,) how sure the router must be for an expert to take no more than capacity * T / experts of
    these tokens: 0 where it would take fewer anyway."""
    room = max(1, round(capacity * len(surest_T) / experts))
    least = surest_T.new_zeros(experts)
    for e in range(experts):
        mine = surest_T[expert_T == e]
        if len(mine) > room:
            least[e] = mine.topk(room).values[-1]
    return least

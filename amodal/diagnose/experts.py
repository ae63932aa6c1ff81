"""How a mixture of experts divides its tokens: what gets through, and who does the work.

Mustafa et al. 2022 (LIMoE), arXiv:2206.02770, section 4: without entropies the tokens of a small
field go to few experts, and the rest are left out where these are full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

USED = 0.01
"""Share of a field's tokens from which it counts as using an expert."""

Row = dict[str, str | float]


@dataclass(frozen=True)
class Routing:
    """Sums over the tokens of one field at one router; those of batches are added.

    Args:
        tokens: How many.
        passed: (E,) float64, those that went through each expert.
        probability: (E,) float64, sums of router probabilities.
        surest: The sum of their highest probabilities.
    """

    tokens: int
    passed: Tensor
    probability: Tensor
    surest: float

    def __add__(self, other: Routing) -> Routing:
        return Routing(
            self.tokens + other.tokens,
            self.passed + other.passed,
            self.probability + other.probability,
            self.surest + other.surest,
        )


def routing_of(logits_TE: Tensor, threshold_E: Tensor) -> Routing:
    """Count the tokens of a batch.

    Args:
        logits_TE: Of the router, T tokens and E experts.
        threshold_E: The probability below which each expert leaves a token out.
    """
    p_TE = logits_TE.double().softmax(1)
    # who passes is decided as in training, where probabilities have the precision of the logits
    surest_T, expert_T = logits_TE.softmax(1).max(1)
    passed = expert_T[surest_T >= threshold_E[expert_T]]
    counts_E = torch.bincount(passed, minlength=logits_TE.shape[1]).double()
    return Routing(len(p_TE), counts_E.cpu(), p_TE.sum(0).cpu(), float(surest_T.double().sum()))


def of_fields(by_field: Mapping[str, Routing]) -> list[Row]:
    """How the tokens of each field are routed.

    Returns:
        For each field with tokens: `tokens`; `experts`, E; `reach`, the share that an expert takes;
        `used`, the experts that take at least `USED` of what passes; `effective`, the exponential
        of the entropy of the mean probability (LIMoE, eq. 3: its global entropy asks for a least
        one); `sure`, the mean of the highest probability.
    """
    rows: list[Row] = []
    for field, routing in by_field.items():
        if not routing.tokens:
            continue
        passed = float(routing.passed.sum())
        mean_E = routing.probability / routing.tokens
        rows.append(
            {
                "source": field,
                "tokens": float(routing.tokens),
                "experts": float(len(mean_E)),
                "reach": passed / routing.tokens,
                "used": float((routing.passed >= max(1.0, USED * passed)).sum()),
                "effective": float(torch.special.entr(mean_E).sum().exp()),
                "sure": routing.surest / routing.tokens,
            }
        )
    return rows


def of_experts(by_field: Mapping[str, Routing]) -> list[Row]:
    """What each expert does.

    Returns:
        For each expert: `share` of all tokens that pass, and of its tokens those of each field,
        `from FIELD`; without the latter for one that no token reaches.
    """
    passed_FE = torch.stack([routing.passed for routing in by_field.values()])
    total = float(passed_FE.sum())
    rows: list[Row] = []
    for e, of_field in enumerate(passed_FE.T):
        mine = float(of_field.sum())
        row: Row = {"source": f"expert {e + 1}", "share": mine / total if total else 0.0}
        if mine:
            row |= {f"from {f}": float(n) / mine for f, n in zip(by_field, of_field)}
        rows.append(row)
    return rows

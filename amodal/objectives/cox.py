"""Cox's partial likelihood as a loss.

Cox 1972; ties as Breslow 1974; for networks Katzman et al. 2018, arXiv:1606.00931, eq. 4. With
weights of records: Binder 1992; for networks Mondal et al. 2024, arXiv:2402.10717.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero


def cox(risk_N: Tensor, time_N: Tensor, event_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """Negative partial log likelihood, averaged over events.

        L = mean_{i: event} [ log sum_{j: t_j >= t_i} w_j exp(h_j) - h_i ]

    The mean is weighted by w if there are weights. The risk set of an event is every record of
    the batch whose time is not shorter.

    Args:
        risk_N: log hazards h.
        time_N: time of the event, or of censoring.
        event_N: bool, True for an event, False for censoring.
        weight_N: positive weights w of records, in the mean and in every risk set; None for 1.

    Returns:
        A scalar. Without any event: 0, connected to the input.
    """
    event_N = event_N.bool()
    if not event_N.any():
        return connected_zero(risk_N)
    risk = risk_N.to(torch.promote_types(risk_N.dtype, torch.float32))
    # in the order of falling times each risk set is a prefix, which for ties ends with the last of
    # them
    order = time_N.argsort(descending=True, stable=True)
    descending = time_N[order]
    last_tied = torch.searchsorted(-descending, -descending, right=True) - 1
    observed = event_N[order]
    if weight_N is None:
        log_sum = risk[order].logcumsumexp(0)[last_tied]
        return (log_sum - risk[order])[observed].mean()
    weight = weight_N[order].to(risk.dtype)
    log_sum = (risk[order] + weight.log()).logcumsumexp(0)[last_tied]
    return ((log_sum - risk[order]) * weight)[observed].sum() / weight[observed].sum()

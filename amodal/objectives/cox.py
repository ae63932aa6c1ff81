"""Cox's partial likelihood as a loss (Cox 1972; ties as Breslow 1974; for networks Katzman et al.
2018, arXiv:1606.00931, eq. 4), and with weights of records (Binder 1992; for networks Mondal et al.
2024, arXiv:2402.10717)."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero


def cox(risk_N: Tensor, time_N: Tensor, event_N: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """The negative partial log likelihood, averaged over events. risk: log hazards; time: of the
    event, or last seen without it; event: bool, whether it came. The risk set of an event is
    everybody in the batch whose time is not shorter. Zero without any event. weight: of each
    record, positive, in the average and in every risk set that it is in; all the same unless given.
    """
    event_N = event_N.bool()
    if not event_N.any():
        return connected_zero(risk_N)
    risk = risk_N.to(torch.promote_types(risk_N.dtype, torch.float32))
    # in the order of falling times each risk set is a prefix, which for ties ends with the last of
    # them
    order = time_N.argsort(descending=True, stable=True)
    falling = time_N[order]
    last = torch.searchsorted(-falling, -falling, right=True) - 1
    came = event_N[order]
    if weight_N is None:
        log_sum = risk[order].logcumsumexp(0)[last]
        return (log_sum - risk[order])[came].mean()
    weight = weight_N[order].to(risk.dtype)
    log_sum = (risk[order] + weight.log()).logcumsumexp(0)[last]
    return ((log_sum - risk[order]) * weight)[came].sum() / weight[came].sum()

"""How unsure predictions are: the mean entropy of a softmax, which TENT makes small at test time
(Wang et al., ICLR 2021, arXiv:2006.10726, section 3.1)."""

from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def prediction_entropy(logits_NC: Tensor) -> Tensor:
    """Mean over rows of - sum_c p_c log p_c in nats, p the softmax of the row; no row gives a
    connected 0. Raises ValueError unless there are rows of classes."""
    if logits_NC.dim() != 2:
        raise ValueError(f"prediction_entropy needs (N, C) logits, got {tuple(logits_NC.shape)}.")
    if not len(logits_NC):
        return connected_zero(logits_NC)
    log_p = logits_NC.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()

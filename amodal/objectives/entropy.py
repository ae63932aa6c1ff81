"""Entropy of predictions, which TENT minimises at test time.

Wang et al., ICLR 2021, arXiv:2006.10726, section 3.1.
"""

from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def prediction_entropy(logits_NC: Tensor) -> Tensor:
    """Mean entropy of softmax predictions, in nats.

        L = mean_i -sum_c p_ic log p_ic

    Args:
        logits_NC: scores of C classes.

    Returns:
        A scalar. Without rows: 0, connected to the input.

    Raises:
        ValueError: `logits_NC` is no matrix.
    """
    if logits_NC.dim() != 2:
        raise ValueError(f"prediction_entropy needs (N, C) logits, got {tuple(logits_NC.shape)}.")
    if not len(logits_NC):
        return connected_zero(logits_NC)
    log_p = logits_NC.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()

"""Do the terms of a loss pull the weights that they share in the same direction? Wu et al. 2022,
arXiv:2211.02077, figure 3."""

from __future__ import annotations

import torch

from amodal.core import Batch
from amodal.methods.contract import Method
from amodal.objectives.realign import cosines


def conflict(method: Method, batch: Batch) -> dict[tuple[str, str], float]:
    """Every two terms of the method's loss on this batch -> the cosine of their gradients over the
    parameters that both reach, from -1 (opposed) to 1. Costs one backward pass a term. Learns
    nothing, but a method that keeps what its next `tick` will push (queues, centres) keeps this
    batch's: call it between steps, after `tick`."""
    learning = [p for p in method.parameters() if p.requires_grad]
    terms, gradients = method.losses(method.features(batch)), {}
    for name, term in terms.items():
        grads = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
        gradients[name] = torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, learning)]
        )
    return {pair: float(value) for pair, value in cosines(gradients).items()}

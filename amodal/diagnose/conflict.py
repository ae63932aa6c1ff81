"""Whether the terms of a loss pull their shared weights in the same direction.

Wu et al. 2022, arXiv:2211.02077, figure 3.
"""

from __future__ import annotations

import torch

from amodal.core import Batch
from amodal.methods.contract import Method
from amodal.objectives.realign import cosines


def conflict(method: Method, batch: Batch) -> dict[tuple[str, str], float]:
    """Cosines between the gradients of the terms of a method's loss, over the parameters that both
    reach.

    It costs one backward pass for each term and learns nothing. A method that stores what its next
    `on_step_end` will push (queues, centres) stores this batch's. So call it between steps, after
    `on_step_end`.

    Args:
        method: The method.
        batch: What the loss is computed on.

    Returns:
        Every two terms -> cosine, from -1 (opposed) to 1.
    """
    learning = [p for p in method.parameters() if p.requires_grad]
    terms, gradients = method.losses(method.features(batch)), {}
    for name, term in terms.items():
        grads = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
        gradients[name] = torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, learning)]
        )
    return {pair: float(value) for pair, value in cosines(gradients).items()}

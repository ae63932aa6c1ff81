"""Test-time training: adapt parameters of a trained module by a label-free loss on each test batch.

with TestTimeTraining(encoder, tent(encoder, head), steps=10) as adapt:
    for batch in batches:
        adapt(batch)
        outputs = head(encoder.features(batch))

Episodic: each batch starts from the trained weights (Sun et al., ICML 2020, arXiv:1909.13231,
section 2). Online: it starts from the weights that the batches before have left. `norms` are what
TENT adapts (Wang et al., ICLR 2021, arXiv:2006.10726). The trunks of this library normalise within
a token, so there are no batch statistics to recompute, as TENT does where there is BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead
from amodal.objectives.entropy import prediction_entropy

Loss = Callable[[Batch], Tensor]
Choice = Callable[[nn.Module], list[nn.Parameter]]
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


def norms(module: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every normalisation layer."""
    return [
        p
        for part in module.modules()
        if isinstance(part, NORMS)
        for p in part.parameters(recurse=False)
    ]


def all_parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters())


class TestTimeTraining:
    """Adapts a module to each batch, and restores it when the `with` block ends.

    Args:
        module: What adapts. It is set to evaluation mode.
        loss: Batch -> loss, by the module as it is.
        select: The parameters that adapt.
        steps: Optimizer steps on each batch.
        lr, optimizer: Of these steps.
        online: Continue from batch to batch; otherwise each batch starts from the trained weights.

    Raises:
        AmodalError: If no parameter would adapt.
    """

    __test__: ClassVar[bool] = False
    """Pytest would collect a class of this name."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        *,
        select: Choice = norms,
        steps: int = 1,
        lr: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] = MOMENTUM,
        online: bool = False,
    ):
        self.module, self.loss, self.steps, self.online = module, loss, steps, online
        self.make_optimizer = partial(optimizer, lr=lr)
        self.parameters = select(module)
        if not self.parameters or steps < 1:
            raise AmodalError(
                f"no parameter would adapt at test time: {len(self.parameters)} parameters "
                f"in {steps} steps"
            )

    def __enter__(self) -> TestTimeTraining:
        self.before = [p.detach().clone() for p in self.parameters]
        self.training = self.module.training
        self.required_grad = [p.requires_grad for p in self.module.parameters()]
        # only what adapts: no graph is built below it
        self.module.eval().requires_grad_(False)
        for p in self.parameters:
            p.requires_grad_(True)
        self.optimizer = self.make_optimizer(self.parameters)
        return self

    def __call__(self, batch: Batch) -> list[float]:
        """Adapt to a batch. Returns the loss before each step."""
        if not self.online:
            self.reset()
        losses = []
        for _ in range(self.steps):
            with torch.enable_grad():
                loss = self.loss(batch)
                gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            for p, g in zip(self.parameters, gradients):
                p.grad = g
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    @torch.no_grad()
    def reset(self) -> None:
        """Restore the trained weights, with a fresh optimizer."""
        for p, value in zip(self.parameters, self.before):
            p.copy_(value)
        self.optimizer = self.make_optimizer(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.reset()
        for p, required in zip(self.module.parameters(), self.required_grad):
            p.requires_grad_(required)
        for p in self.parameters:
            p.grad = None
        self.module.train(self.training)


def tent(encoder: Encoder, head: SupervisedHead) -> Loss:
    """The loss of TENT: the entropy of the predicted classes, mean over the labels.

    Raises:
        AmodalError: If no label of the head has classes.
    """
    names = [t.name for t in head.targets if t.kind == "classes"]
    if not names:
        raise AmodalError(
            "entropy is of classes, and no label of this head has any; "
            "take another loss at test time"
        )

    def loss(batch: Batch) -> Tensor:
        outputs = head.split(head(encoder.features(batch)))
        return torch.stack([prediction_entropy(outputs[name].flat) for name in names]).mean()

    return loss


@torch.no_grad()
def predict_batches(
    encoder: Encoder,
    head: SupervisedHead,
    batches: Iterable[Batch],
    adapt: Callable[[Batch], object] | None = None,
) -> dict[str, Tensor]:
    """Predict the rows of all batches that have any field.

    Args:
        adapt: Called with each batch before it is predicted.

    Returns:
        Target -> predictions of all batches, concatenated.
    """
    predictions: dict[str, list[Tensor]] = {}
    for batch in batches:
        if adapt is not None:
            adapt(batch)
        for name, part in head.predictions(head(encoder.features(batch))).items():
            predictions.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in predictions.items()}

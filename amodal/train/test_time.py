"""Learning at test time: some parameters of a trained module follow a loss that needs no label, on
the very batch that is to be told.

with AtTestTime(encoder, tent(encoder, head), steps=10) as adapt:
    for batch in batches:
        adapt(batch)
        told = head(encoder.features(batch))

Episodic: each batch begins with the weights as they were trained (Sun et al., ICML 2020,
arXiv:1909.13231, section 2); online: with what the batches before have left. `norms` are what TENT
adapts (Wang et al., ICLR 2021, arXiv:2006.10726). This library's trunks normalise within a token,
so there are no statistics of a batch to take anew, as TENT does where there is BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

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
    """Scale and shift of every normalisation."""
    return [
        p
        for part in module.modules()
        if isinstance(part, NORMS)
        for p in part.parameters(recurse=False)
    ]


def everything(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters())


class AtTestTime:
    """module: what adapts, in evaluation mode; loss: of a batch, as the module is; learn: which of
    its parameters; steps: on each batch; rate, optimizer: of them; online: go on from batch to
    batch. Leaving the `with` gives the module back as it was.

    Raises AmodalError where nothing would learn.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        *,
        learn: Choice = norms,
        steps: int = 1,
        rate: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] = MOMENTUM,
        online: bool = False,
    ):
        self.module, self.loss, self.steps, self.online = module, loss, steps, online
        self.fresh = partial(optimizer, lr=rate)
        self.chosen = learn(module)
        if not self.chosen or steps < 1:
            raise AmodalError(
                f"nothing would learn at test time: {len(self.chosen)} parameters in {steps} steps"
            )

    def __enter__(self) -> AtTestTime:
        self.before = [p.detach().clone() for p in self.chosen]
        self.mode, self.learnt = (
            self.module.training,
            [p.requires_grad for p in self.module.parameters()],
        )
        self.module.eval().requires_grad_(False)
        for p in self.chosen:
            p.requires_grad_(True)
        self.optimizer = self.fresh(self.chosen)
        return self

    def __call__(self, batch: Batch) -> list[float]:
        """The loss before each step."""
        if not self.online:
            self.reset()
        losses = []
        for _ in range(self.steps):
            with torch.enable_grad():
                loss = self.loss(batch)
                gradients = torch.autograd.grad(loss, self.chosen, allow_unused=True)
            for p, g in zip(self.chosen, gradients):
                p.grad = g
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the weights as they were trained."""
        for p, kept in zip(self.chosen, self.before):
            p.copy_(kept)
        self.optimizer = self.fresh(self.chosen)

    def __exit__(self, *_) -> None:
        self.reset()
        for p, learns in zip(self.module.parameters(), self.learnt):
            p.requires_grad_(learns)
        for p in self.chosen:
            p.grad = None
        self.module.train(self.mode)


def tent(encoder: Encoder, head: SupervisedHead) -> Loss:
    """The entropy of what the head tells of a batch, mean over the labels that are classes. Raises
    AmodalError if none is."""
    names = [t.name for t in head.targets if t.kind == "classes"]
    if not names:
        raise AmodalError(
            "entropy is of classes, and no label of this head has any; take another loss at test time"
        )

    def loss(batch: Batch) -> Tensor:
        told = head.split(head(encoder.features(batch)))
        return torch.stack([prediction_entropy(told[name].values) for name in names]).mean()

    return loss


@torch.no_grad()
def told(
    encoder: Encoder,
    head: SupervisedHead,
    batches: Iterable[Batch],
    adapt: Callable[[Batch], object] | None = None,
) -> dict[str, Tensor]:
    """Target -> predictions for the rows of all batches that have any field, end to end. adapt: is
    called with each batch before."""
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        if adapt is not None:
            adapt(batch)
        for name, part in head.predictions(head(encoder.features(batch))).items():
            found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}

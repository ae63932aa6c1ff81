"""SwAV: the cluster of one view is predicted from another; clusters are balanced over the batch.
Caron, Misra, Mairal, Goyal, Bojanowski & Joulin, NeurIPS 2020, arXiv:2006.09882. Loss: their eq. 1
and 2; codes: eq. 3-5, by Sinkhorn-Knopp; small crops: eq. 6.

Each field has a head, prototypes and, with `queue`, vectors of earlier rows of its own. Codes are
computed for the two large views of a value, and all other views predict them.

Differs:
- Large views are "strong" (crops of 20 to 100 % of the area, theirs 14 to 100 %; colours of
  strength 0.5, theirs 1.0), small ones "local" (5 to 40 %, theirs 5 to 14 %).
- The optimizer is LARS with biases and norms left out; theirs adapts these as well. The learning
  rate rises from one step's share of its peak and ends at a hundredth of it; theirs starts at 0.3
  of 4.8 and ends at a thousandth.
- `freeze` and `queue_start` are shares of the steps. Theirs are 313 steps, which are one epoch of
  800, and 15 epochs of 200.
- The queue of their small batches holds 3,840 rows; it is off here, as with their large batches.
- Their encoder is a ResNet-50, to be had by `--backbone image=timm:resnet50 --train-backbones`.
  Ours is a transformer unless one says so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Embeddings, Recipe, views_of
from amodal.methods.contract import Clock, Method
from amodal.methods.shared.ranges import check_at_least, check_positive, check_share
from amodal.methods.shared.shapes import share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.queue import Queues
from amodal.objectives.dino import view_cross_entropy
from amodal.objectives.sinkhorn import sinkhorn

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.3,
    lr_scaling="linear/256",
    momentum=0.9,
    weight_decay=1e-6,
    schedule="cosine",
    warmup_epochs=10,
    clip=0.0,
    batch_size=4096,
    epochs=800,
)
"""Of ImageNet, appendix A."""

LARGE = 2  # views that have codes


def swav(
    encoder: Encoder,
    *,
    prototypes: int = 3000,
    local_views: int = 6,
    width: int = 128,
    hidden: int = 2048,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue: int = 0,
    queue_start: float = 0.075,
    freeze: float = 0.00125,
) -> Swav:
    """Build SwAV.

    Args:
        encoder: Of any fields.
        prototypes: Clusters of each field. Fewer than rows of a batch and a queue together, or
            codes say little.
        local_views: Small crops beside the two large ones.
        width: Of the space of the prototypes.
        hidden: Of the head.
        temperature: Of the softmax over prototypes.
        epsilon: Entropy of the codes; smaller is harder.
        iterations: Of Sinkhorn-Knopp.
        queue: Earlier rows that help to balance the codes of small batches, for each large view; 0
            for none.
        queue_start: Share of the steps before the queue begins to fill. It is used once full.
        freeze: Share of the steps before prototypes begin to learn; the first step at least, if
            above 0.

    Raises:
        AmodalError: For an option out of its range.
    """
    check_at_least(0, local_views=local_views, queue=queue)
    check_at_least(1, width=width, hidden=hidden, iterations=iterations)
    check_at_least(2, prototypes=prototypes)
    check_positive(temperature=temperature, epsilon=epsilon)
    check_share(queue_start=queue_start, freeze=freeze)
    return Swav(
        encoder,
        prototypes=prototypes,
        local_views=local_views,
        width=width,
        hidden=hidden,
        temperature=temperature,
        epsilon=epsilon,
        iterations=iterations,
        queue=queue,
        queue_start=queue_start,
        freeze=freeze,
    )


class Swav(Method):
    """Swapped prediction of codes; see `swav` for the arguments."""

    min_batch_size = 2
    progress: Tensor
    """Share of the steps that are done."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: int,
        local_views: int,
        width: int,
        hidden: int,
        temperature: float,
        epsilon: float,
        iterations: int,
        queue: int,
        queue_start: float,
        freeze: float,
    ):
        super().__init__()
        self.encoder, self.views = encoder, ("strong",) * LARGE + ("local",) * local_views
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue, self.queue_start, self.freeze = queue, queue_start, freeze
        self.heads = nn.ModuleDict(
            {f: Projector(encoder.width, width, hidden=hidden) for f in encoder.fields}
        )
        self.prototypes = nn.ParameterDict(
            {
                f: nn.Parameter(normalize(torch.randn(prototypes, width), dim=1))
                for f in encoder.fields
            }
        )
        coded = [s for f in encoder.fields for s in self.sources(f)[:LARGE]]
        self.queues = Queues(coded if queue else [], queue, width)
        self.register_buffer("progress", torch.zeros(()))
        self._new: dict[str, Tensor] = {}

    def sources(self, field: str) -> list[str]:
        """The views of a field, those with codes first."""
        return views_of(field, len(self.views))

    def features(self, batch: Batch) -> Embeddings:
        return self.encoder.features(batch)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return share({f"swav/{f}": self.swapped(features, f) for f in self.encoder.fields})

    def swapped(self, features: Embeddings, field: str) -> Tensor:
        """Each view of a field predicts the codes of the other large views."""
        sources = self.sources(field)
        # BatchNorm of the head over all views at once, as in the authors' program
        x = torch.cat([features[s].flat for s in sources])
        views = normalize(self.heads[field](x), dim=1).chunk(len(sources))
        prototypes = self.prototypes[field]
        if self.progress < self.freeze:
            prototypes = prototypes.detach()
        codes = [
            self.codes(source, z.detach(), prototypes.detach())
            for source, z in zip(sources[:LARGE], views)
        ]
        return view_cross_entropy(
            [z @ prototypes.T for z in views], codes, temperature=self.temperature
        )

    def codes(self, source: str, z_ND: Tensor, prototypes_KD: Tensor) -> Tensor:
        """The code of each row (N, K), balanced with earlier rows if their queue is full."""
        together = z_ND
        if self.queue:
            # pushed after the step, so that a row does not balance itself
            self._new[source] = z_ND
            earlier = self.queues.earlier(source)
            if len(earlier) == self.queue:
                together = torch.cat([earlier.to(z_ND.dtype), z_ND])
        codes = sinkhorn(
            together @ prototypes_KD.T, epsilon=self.epsilon, iterations=self.iterations
        )
        return codes[len(together) - len(z_ND) :]

    @torch.no_grad()
    def on_step_end(self, clock: Clock) -> None:
        for prototypes in self.prototypes.values():
            prototypes.copy_(normalize(prototypes, dim=1))
        if self.progress >= self.queue_start:
            self.queues.push(self._new)
        self._new = {}
        self.progress.fill_(clock.progress)

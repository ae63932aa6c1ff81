"""LIMoE: one sparse tower for all fields, with entropy losses on its router.

Mustafa et al., NeurIPS 2022, arXiv:2206.02770. The router is to be certain of each token and to use
many experts over all tokens. Contrastive loss of every two fields. Balance: importance, load and
router z of V-MoE (arXiv:2106.05974). Entropy: their eq. 2-4, local for text, global for every
field. Row 168 of the catalogue.

A full expert leaves out the tokens that its router is least certain of. Full is counted over the
batch before, so that a row never depends on the rows beside it (see `amodal.nn.experts`). The
router's logits get no noise; the load loss assumes one, as published.

Differs:

- encoder: one of the sizes, with 8 experts in every second block (`--experts 32`). The paper's are
  ViTs of S/32 to H/14 with up to 32, and texts are SentencePieces there.
- routing: an expert of theirs has a buffer, which the tokens of one group of pictures or texts
  fill, the surest first. Here a token is left out below a threshold, by the batch before: as many
  are left out, and the same ones where batches are alike, but a row's vector is the same in any
  batch, which micro-batches, the gradient cache and `embed` need.
- noise: the routers of V-MoE add noise to their logits in training. Here there is none, so routing
  is the same in both directions of a step and on any number of processes.
- thresholds of the global entropy are shares of the experts: log 9 and log 20 of 32 there. Of 8
  experts they ask for 2 and 5, which a router that has just begun meets.
- auxiliary losses: all of them together weigh `weight`, over both fields; fields but the text have
  the pictures' threshold, and there may be more than two.
- views are `weak`. The common space has no bias, and the temperature no bound.
- recipe: the authors have released neither their configuration nor their pairs, so there is no
  `PAPER_RECIPE`; the learning rate and schedule are those of the encoder's size.
- product: zero-shot classes and retrieval by the usual verbs. `amodal diagnose RUN --data DATA
  --only experts`: the share of each field's tokens that reach an expert (their routing success),
  the experts that a field uses, and the fields that each expert gets its tokens from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Tokens
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.experts import sparse_layers, thresholds
from amodal.nn.scale import Scale
from amodal.objectives import routing
from amodal.objectives.info_nce import info_nce

ENCODER = {"trunk": "shared", "experts": 8}

Router = tuple[str, int]
"""A trunk, and the number of the sparse block in it."""


def limoe(
    encoder: Encoder,
    *,
    text_field: str = "",
    width: int = 128,
    temperature: float = 0.07,
    weight: float = 0.04,
    balance: bool = True,
    entropy: bool = True,
    text_share: float = 9 / 32,
    other_share: float = 20 / 32,
    capacity: float = 1.05,
) -> Limoe:
    """InfoNCE between every two fields, and losses of the routers of a mixture of experts.

    Args:
        encoder: With experts and single-field sequences; gets heads into a common space.
        text_field: The field of few tokens, whose routing is to be certain (local entropy).
            Default: the first text field.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        weight: Weight of the mean of all router losses.
        balance: Whether importance, load and z are among them.
        entropy: Whether local and global entropy are among them.
        text_share: Least share of the experts that the text field is to use.
        other_share: Least share of the experts that each other field is to use.
        capacity: Tokens that an expert takes, as a multiple of an equal share (0: any number).

    Raises:
        AmodalError: If the encoder has one field, no experts or a joint trunk.
    """
    scale, text_field = Scale(1 / temperature), pick_text_field(two_fields(encoder), text_field)[0]
    if not encoder.experts or encoder.trunk == "joint":
        raise AmodalError(
            'limoe routes fields one by one to experts: take trunk="shared" and experts=8, not '
            f'trunk="{encoder.trunk}" and experts={encoder.experts}'
        )
    shares = {f: text_share if f == text_field else other_share for f in encoder.fields}
    return Limoe(
        encoder.align(width),
        scale=scale,
        text_field=text_field,
        weight=weight,
        balance=balance,
        expert_shares=shares if entropy else {},
        capacity=capacity,
    )


@dataclass(frozen=True, kw_only=True)
class LimoeFeatures(FeatureRecord):
    """Vectors in the common space, and what the router losses need; keys "trunk/block/source"."""

    aligned: Columns  # source -> (N, D)
    routing_sums: Columns  # key -> (N, 3 + 2E), sums over a row's tokens, of `routing_sums`
    confidence: Columns  # key -> N lists of (2,), the top probability of a token, and its expert


class Limoe(Method):
    """See `limoe`.

    Args:
        text_field: The field with local entropy.
        expert_shares: Field -> least share of the experts that it is to use; empty for no entropy.
        weight, balance, capacity: As of `limoe`.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        scale: Scale,
        text_field: str,
        weight: float,
        balance: bool,
        expert_shares: Mapping[str, float],
        capacity: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.text_field = encoder, scale, text_field
        self.weight, self.balance, self.capacity = weight, balance, capacity
        self.expert_shares = dict(expert_shares)
        self._thresholds: dict[Router, Tensor] = {}

    def logit_scale(self) -> Scale:
        """The learned scale of cosines."""
        return self.scale

    def features(self, batch: Batch) -> LimoeFeatures:
        router_logits: dict[Router, dict[str, Tokens]] = {}
        context = self.encoder.encode(self.encoder.tokenize(batch), router_logits=router_logits)
        z = self.encoder.project(Embeddings(self.encoder.pool(context), batch.size))
        sums, confidence = {}, {}
        for (trunk, block), by_source in router_logits.items():
            for source, logits in by_source.items():
                key, rows = f"{trunk}/{block}/{source}", logits.rows()
                per_row = routing.routing_sums(logits.x, logits.row, batch.size)
                # (T, 2); expert numbers are small enough for a float
                top = torch.stack(logits.x.detach().softmax(1).max(1), 1)
                sums[key] = Column(per_row[rows], rows)
                confidence[key] = Column(Ragged(top, logits.lengths()[rows]), rows)
        return LimoeFeatures(
            size=batch.size, aligned=z.columns, routing_sums=sums, confidence=confidence
        )

    def losses(self, features: LimoeFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        terms = share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / self.scale())
                for a, b in field_pairs(z)
            }
        )
        routers: dict[Router, dict[str, Tensor]] = {}
        for key, column in features.routing_sums.items():
            trunk, block, source = key.split("/")
            routers.setdefault((trunk, int(block)), {})[source] = column.flat.sum(0)
        by_name: dict[str, list[Tensor]] = {}
        for router, sums in routers.items():
            for name, loss in self.of_router(sums).items():
                by_name.setdefault(name, []).append(loss)
            # held until the step is done: the thresholds of a step must be the same in all of its
            # passes
            self._thresholds[router] = self.capacity_thresholds(features, router, list(sums))
        means = {name: torch.stack(losses).mean() for name, losses in by_name.items()}
        return terms | {name: self.weight * loss for name, loss in share(means).items()}

    def of_router(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of one router.

        Args:
            sums: Source -> (3 + 2E,), over all its tokens.
        """
        whole, losses = torch.stack(list(sums.values())).sum(0), {}
        if self.balance:
            losses = {
                "importance": routing.importance(whole),
                "load": routing.load(whole),
                "z": routing.router_z(whole),
            }
        # eq. 2-4 of LIMoE: global entropy of every field, local entropy of the text alone
        for source, of_source in sums.items():
            if source in self.expert_shares:
                least = self.expert_shares[source]
                losses[f"global/{source}"] = routing.global_entropy(of_source, least)
                if source == self.text_field:
                    losses[f"local/{source}"] = routing.local_entropy(of_source)
        return losses

    @torch.no_grad()
    def capacity_thresholds(
        self, features: LimoeFeatures, router: Router, sources: list[str]
    ) -> Tensor:
        """(E,) how certain a router must be for its experts to stay within their capacity."""
        trunk, block = router
        top = torch.cat([features.confidence[f"{trunk}/{block}/{s}"].flat for s in sources])
        if not self.capacity or not len(top):
            return top.new_zeros(self.encoder.experts)
        return thresholds(top[:, 0], top[:, 1].long(), self.encoder.experts, self.capacity)

    def on_step_end(self, clock: Clock) -> None:
        for (trunk, number), least in self._thresholds.items():
            sparse_layers(self.encoder.trunks[trunk])[number].threshold.copy_(least)
        self._thresholds = {}

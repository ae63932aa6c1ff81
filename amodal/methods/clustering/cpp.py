"""CPP: the vectors of a frozen encoder are laid into subspaces, and cluster memberships are learnt
beside them, without a number of clusters. Chu, Tong, Ding, Dai, Haeffele, Vidal & Ma, ICLR 2024,
arXiv:2306.05272. Minimised: -R(Z) + R_c(Z | Pi) + weight / 2 |Pi|^2 of their section 3, with Pi the
doubly stochastic membership of all rows of a batch; before that -R alone. Row 185 of the catalogue.
Clusters and their number by coding length are what `amodal cluster` gives of a run.

Each field is clustered by itself, with a head of its own, and losses are means over fields. The
head's two branches, end to end, are the aligned vectors.

The paper's features are CLIP ViT-L/14's, in the space of its texts, by whose votes clusters are
named. With that model in DIR, and CLIP as a run (a rate of 0; any data with both fields):

    amodal pretrain cpp --data DATA --recipe paper --size base
        --backbone image=transformers:DIR@projected --out RUN
    amodal pretrain clip --data PAIRS --size base --method.width 768 --steps 1 --lr 0
        --backbone image=transformers:DIR@projected text=transformers:DIR@projected --out CLIP
    amodal cluster RUN --data DATA --names FILE --names-by CLIP

The head is that of the authors' code. Any other frozen encoder gives features as well.

Differs:

- groups: columns of Pi, as in the authors' code; its rows sum to 1 exactly after an odd number of
  half steps, its columns nearly.
- optimizer: one rate, where theirs has 2e-3 for the branch of memberships (`--lr-multipliers
  encoder.heads.image.member.=0.667`), and one weight decay, where theirs has 5e-3 there. Stages
  have an optimizer each, so that its moments do not outlive the warm-up.
- warm-up: a share of the steps with its own rise and fall of the rate; theirs is a number of
  steps.
- `distortion` .1 as in the authors' code, which ignores its own option for it.
- product: `amodal cluster` groups by the memberships' branch and codes the subspaces' branch, of
  up to 2,000 records; others get the cluster that they are most alike. `amodal evaluate` scores
  such clusters, of the vectors of both branches, where there is a label (`number="coding
  length"`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Embeddings, Recipe, field_of
from amodal.methods.contract import StagedMethod
from amodal.methods.shared.typed_parts import aligned_heads
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import BranchHead
from amodal.objectives.rate_reduction import coding_rate, compressed_rate
from amodal.objectives.sinkhorn import doubly_stochastic

# of the authors' code
PAPER_RECIPE = Recipe(
    optimizer="sgd",
    lr=3e-3,
    weight_decay=1e-4,
    momentum=0.9,
    schedule="constant",
    warmup_steps=0,
    clip=0.0,
    batch_size=2000,
    epochs=30.0,
)


def cpp(
    encoder: Encoder,
    *,
    width: int = 128,
    hidden: int = 4096,
    distortion: float = 0.1,
    epsilon: float = 0.175,
    iterations: int = 5,
    weight: float = 0.05,
    warmup: float = 0.07,
) -> Clusters:
    """Build CPP.

    Args:
        encoder: Stays frozen but for its heads.
        width: Of each branch, the subspaces' and the memberships'.
        hidden: Of the head's layers.
        distortion: Squared, of the coding rate.
        epsilon: Entropy of memberships; smaller is harder.
        iterations: Of their Sinkhorn scaling.
        weight: Of the squared norm of memberships.
        warmup: Share of the steps that only spread the vectors out; after it memberships begin as
            a copy of the subspaces' branch.
    """
    if not 0 <= warmup < 1:
        raise AmodalError(f"cpp.warmup is a share of the steps from 0 to below 1, got {warmup}")
    encoder.align(
        2 * width, fused=encoder.trunk == "joint", head=partial(BranchHead, hidden=hidden)
    )
    return Clusters(
        encoder,
        distortion=distortion,
        epsilon=epsilon,
        iterations=iterations,
        weight=weight,
        stages=(warmup, 1.0) if warmup else (1.0,),
    )


class Clusters(StagedMethod):
    """Heads that lay frozen vectors into subspaces; features are those vectors, field by field.

    Args:
        encoder: Has heads of two branches.
        distortion: Squared, of the coding rate.
        epsilon: Entropy of memberships.
        iterations: Of their Sinkhorn scaling.
        weight: Of the squared norm of memberships.
        stages: Where they end, as shares of the steps; the first of two only spreads vectors out.
    """

    min_batch_size = 2
    refresh_first = False
    compares_fields = False  # each field has subspaces of its own

    def __init__(
        self,
        encoder: Encoder,
        *,
        distortion: float,
        epsilon: float,
        iterations: int,
        weight: float,
        stages: tuple[float, ...],
    ):
        super().__init__()
        self.encoder, self.distortion, self.weight = encoder, distortion, weight
        self.epsilon, self.iterations, self.stages = epsilon, iterations, stages
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.spreading = len(self.stages) > 1 and stage == 0
        self.encoder.requires_grad_(False)
        aligned_heads(self.encoder).requires_grad_(True)

    def refresh(self, stage: int, embed_all: Callable[[], Embeddings] | None) -> None:
        """Memberships begin as the subspaces' branch."""
        for head in aligned_heads(self.encoder).values():
            cast(BranchHead, head).tie_branches()

    @torch.no_grad()
    def features(self, batch: Batch) -> Embeddings:
        return self.encoder.features(batch)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        terms, heads = {}, aligned_heads(self.encoder)
        for s in features:
            branches = heads[field_of(s)](features[s].values).chunk(2, 1)
            z_ND, c_ND = (normalize(branch, dim=1) for branch in branches)
            terms[f"spread/{s}"] = -coding_rate(z_ND, distortion=self.distortion)
            if not self.spreading:
                # of |cosines|: a direction and its opposite lie in the same subspace
                member_NN = doubly_stochastic(
                    (c_ND @ c_ND.T).abs(), epsilon=self.epsilon, iterations=self.iterations
                )
                terms[f"compress/{s}"] = compressed_rate(
                    z_ND, member_NN, distortion=self.distortion
                )
                terms[f"norm/{s}"] = self.weight / 2 * member_NN.square().sum()
        return {name: term / len(features.columns) for name, term in terms.items()}

"""CPP: what a frozen encoder sees is laid into subspaces, and who belongs with whom is learnt
beside it, without a number of clusters. Chu, Tong, Ding, Dai, Haeffele, Vidal & Ma, ICLR 2024,
arXiv:2306.05272. Minimised: -R(Z) + R_c(Z | Pi) + weight / 2 |Pi|^2 of their section 3, with Pi the
doubly stochastic membership of all rows of a batch; before that -R alone. Row 185 of the catalogue.
Clusters, their number by coding length, and their names by votes of text are in
`amodal.evaluate.self_labels`.

Each field is clustered by itself, with a head of its own, and losses are means over fields. The
head's two branches, end to end, are the aligned vectors. What differs: AdamW at one rate and one
weight decay for both branches, where the authors have SGD with two of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Embeddings, field_of
from amodal.methods.contract import Features, StagedMethod
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import BranchHead
from amodal.objectives.rate_reduction import coding_rate, compressed_rate
from amodal.objectives.sinkhorn import doubly_stochastic


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
    """width: of each branch, the subspaces' and the memberships'; hidden: of the head's layers;
    distortion: squared, to which vectors are told; epsilon: entropy of memberships, smaller is
    harder; iterations: of their scaling; weight: of the squared norm of memberships; warmup: share
    of the steps that only spread the vectors out, after which memberships begin where they are."""
    if not 0 <= warmup < 1:
        raise AmodalError(f"cpp.warmup is a share of the steps from 0 to below 1, got {warmup}")
    encoder.align(
        2 * width, fused=encoder.trunk == "joint", head=partial(BranchHead, hidden=hidden)
    )
    method = Clusters(encoder, distortion, {"epsilon": epsilon, "iterations": iterations}, weight)
    method.stages = (warmup, 1.0) if warmup else (1.0,)
    method.on_stage_start(0)
    return method


class Clusters(StagedMethod):
    """Only the heads learn. Features: the frozen vectors of each field."""

    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder: Encoder, distortion: float, sinkhorn: dict, weight: float):
        super().__init__()
        self.encoder, self.distortion, self.sinkhorn, self.weight = (
            encoder,
            distortion,
            sinkhorn,
            weight,
        )

    def on_stage_start(self, stage: int) -> None:
        self.spreading = len(self.stages) > 1 and stage == 0
        self.encoder.requires_grad_(False).heads.requires_grad_(True)

    def refresh(self, stage: int, see: Callable[[], Embeddings]) -> None:
        for head in self.encoder.heads.values():
            head.tie_branches()

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        return self.encoder.features(batch)

    def losses(self, features: Features) -> dict[str, Tensor]:
        terms = {}
        for s in features:
            z_ND, c_ND = (
                normalize(half, dim=1)
                for half in self.encoder.heads[field_of(s)](features[s].values).chunk(2, 1)
            )
            terms[f"spread/{s}"] = -coding_rate(z_ND, distortion=self.distortion)
            if not self.spreading:
                member_NN = doubly_stochastic((c_ND @ c_ND.T).abs(), **self.sinkhorn)
                terms[f"compress/{s}"] = compressed_rate(
                    z_ND, member_NN, distortion=self.distortion
                )
                terms[f"norm/{s}"] = self.weight / 2 * member_NN.square().sum()
        return {name: term / len(features.columns) for name, term in terms.items()}

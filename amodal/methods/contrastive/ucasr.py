"""UCASR: towers learn from augmentations of unpaired values first, then from few pairs behind a
layer of canonical correlation. Carvalho, Washuttl & Widmer, ACM MMSys 2023, arXiv:2309.12134. Stage
1: NT-Xent between two strong views, field by field, on a projector that is dropped. Stage 2: a
ranking hinge over all mismatches of the batch, between vectors that CCA maps into one space (Dorfer
et al., arXiv:1705.06979). Row 74 of the catalogue.

Rows without a second field teach in stage 1 and are passed over in stage 2; where pairs are few,
train in two runs, `pretrain = 1` on everything and `pretrain = 0` on the pairs, which begins with
the weights of the first. Differences: CCA comes from running moments instead of one batch and a
refit at the end, and ends in the encoder's heads; with more than two fields each is turned towards
the first; towers are this library's encoders; views are its strong ones (the paper's are made for
sheet music and sound); the learning rate decays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, view_of
from amodal.methods.contract import Clock, Features, Method, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import nt_xent
from amodal.objectives.margin import ranking_hinge
from amodal.stats.cca import CCA


def ucasr(
    encoder: Encoder,
    *,
    pretrain: float = 0.5,
    width: int = 32,
    hidden: int = 512,
    temperature: float = 0.5,
    margin: float = 0.6,
    symmetric: bool = False,
    cca: bool = True,
    ridge: float = 1e-3,
    momentum: float = 0.9,
) -> Method:
    """pretrain: share of the steps without pairs, 0 to 1; width: of the common space and of the
    projector; hidden: of the projector, which stage 1 alone uses; temperature: of NT-Xent; margin:
    by which a pair must be closer than any mismatch; symmetric: also from the second field to the
    first; cca: map both fields by CCA, else compare the towers' outputs; ridge: added to
    covariances, as a share of their mean variance; momentum: of the running moments that the
    encoder's heads are made of."""
    if not 0 <= pretrain <= 1:
        raise AmodalError(f"ucasr.pretrain is a share of the steps from 0 to 1, got {pretrain}")
    method = Ucasr((encoder if pretrain == 1 else two_fields(encoder)).align(width, bias=True))
    method.heads = nn.ModuleDict(
        {f: Projector(encoder.width, width, hidden=hidden) for f in encoder.fields}
    )
    method.towers = nn.ModuleDict({f: nn.Linear(encoder.width, width) for f in encoder.fields})
    method.cca = CCA(list(encoder.fields), width, ridge=ridge, momentum=momentum) if cca else None
    method.hinge, method.temperature = (
        {"margin": margin, "over": "mean", "symmetric": symmetric},
        temperature,
    )
    method.pretrain, method.stages = pretrain, (pretrain, 1.0) if 0 < pretrain < 1 else (1.0,)
    method.views = ("weak",) * (pretrain < 1) + ("strong", "strong") * (pretrain > 0)
    method.on_stage_start(0)
    return method


class Ucasr(StagedMethod):
    min_batch_size = 2

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def on_stage_start(self, stage: int) -> None:
        self.paired = stage > 0 or not self.pretrain
        self.encoder.heads.requires_grad_(False)  # made of towers and maps after each step
        self.heads.requires_grad_(not self.paired)
        self.towers.requires_grad_(self.paired)

    def features(self, batch: Batch) -> Features:
        strong = ("weak" in self.views) + 1  # the first view that is
        used = [
            s for s in batch.sources if (view_of(s) < strong) == self.paired or not self.pretrain
        ]
        seen = self.encoder.features(batch.only(*used))
        return Features({s: seen[s] for s in seen.sources}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        if not self.paired:
            numbers = (2, 3) if "weak" in self.views else (1, 2)
            views = {f: features.pair(*(f"{f}:{n}" for n in numbers)) for f in self.encoder.fields}
            both = {f: [self.heads[f](x) for x in pair] for f, pair in views.items()}
            return share(
                {
                    f"nt_xent/{f}": nt_xent(*pair, temperature=self.temperature)
                    for f, pair in both.items()
                }
            )
        z = {
            field_of(s): Column(self.towers[field_of(s)](features[s].values), features[s].rows)
            for s in features
        }
        mapped = Embeddings(self.cca(z) if self.cca is not None else z, features.size)
        pairs = {(a, b): mapped.pair(a, b) for a, b in field_pairs(mapped)}
        return share(
            {f"hinge/{a}~{b}": ranking_hinge(*pair, **self.hinge) for (a, b), pair in pairs.items()}
        )

    @torch.no_grad()
    def on_step_end(self, clock: Clock) -> None:
        """The encoder's heads become the towers' outputs under the running maps."""
        if not self.paired:
            return
        maps = {}
        if self.cca is not None:
            self.cca.update()
            maps = self.cca.maps()
        for f, tower in self.towers.items():
            if self.cca is None or f in maps:
                mean, turn = maps.get(
                    f, (torch.zeros_like(tower.bias), torch.eye(len(tower.bias)).to(tower.bias))
                )
                self.encoder.heads[f].weight.copy_(turn.T.to(tower.weight.dtype) @ tower.weight)
                self.encoder.heads[f].bias.copy_(
                    turn.T.to(tower.weight.dtype) @ (tower.bias - mean)
                )

"""MLEM: what slices of a sequence have in common and what it takes to tell the sequence again are
two fields of it, which are aligned. Moskvoretskii et al., 2024, arXiv:2401.15935. Row 7 of the
catalogue. First slices of a record attract each other (CoLES, arXiv:2002.08232); then that encoder
is frozen, and a second one learns from the beginning to give the vector from which a causal decoder
tells the record event by event, while its vectors are aligned with the frozen ones by the sigmoid
loss of SigLIP. The second is kept.

Differences: every field is told again, not events alone, and slices of all fields of a record
attract each other, so that fields can be compared; the GRU reads from both ends and the mean of its
states is the vector, for the last state of one end; the second encoder starts from the first one's
initial weights, not from others; the reconstruction is a mean over events and fields, which the
authors sum over events, so `weight` is 1 for their 10; both vectors have a linear head into the
common space."""

from __future__ import annotations

from collections.abc import Callable

import torch

from amodal.core import AmodalError, Batch, field_of, unknown, view_of
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.generation import FieldDecoders
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import frozen_copy, share, token_mean
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.margin import contrastive_margin
from amodal.objectives.sigmoid import sigmoid_loss

ENCODER = {"mixer": "gru"}
LEARNS = {  # the terms of each stage
    "mlem": (("contrast",), ("reconstruct", "align")),
    "contrastive": (("contrast",),),
    "generative": (("reconstruct",),),
    "sum": (("contrast", "reconstruct"),),
}


def mlem(
    encoder: Encoder,
    *,
    learns: str = "mlem",
    first: float = 0.5,
    slices: int = 4,
    margin: float = 0.5,
    hardest: int = 5,
    width: int = 64,
    weight: float = 1.0,
    scale: float = 10.0,
    bias: float = -10.0,
    decoder: int = 128,
    depth: int = 3,
    heads: int = 2,
) -> Mlem:
    """learns: "mlem", or what the paper compares it with: "contrastive" (CoLES), "generative", or
    the "sum" of both on one encoder; first: share of the steps for the contrastive encoder. slices:
    of each value, which attract each other; margin: distance that slices of different records are
    to keep; hardest: of them, how many each slice meets. width: of the common space; weight: of the
    alignment; scale, bias: where the learned scale and bias of its logits start. decoder, depth,
    heads: width, blocks and heads of the decoder."""
    if learns not in LEARNS:
        raise unknown("way to learn from sequences", learns, LEARNS)
    if slices < 2 or not 0 < first < 1:
        raise AmodalError(
            f"mlem needs 2 slices at least and a share `first` between 0 and 1, not {slices} and {first}"
        )
    tell = FieldDecoders(encoder, width=decoder, depth=depth, heads=heads)
    encoder = (
        encoder if learns == "generative" else encoder.align(width)
    )  # its loss would leave such heads as they are
    method = Mlem(encoder, LEARNS[learns], tell, Scale(scale, bias=bias), margin, hardest, weight)
    method.views = ("plain", *("local",) * slices)
    method.stages = (first, 1.0) if learns == "mlem" else (1.0,)
    method.on_stage_start(0)
    return method


class Mlem(StagedMethod):
    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder, terms, tell, logit, margin, hardest, weight):
        super().__init__()
        self.encoder, self.terms, self.tell, self.logit = encoder, terms, tell, logit
        self.margin, self.hardest, self.weight = margin, hardest, weight
        self.other = frozen_copy(encoder)  # the encoder at its start, later the contrastive one

    def on_stage_start(self, stage: int) -> None:
        self.now = self.terms[stage]
        self.tell.requires_grad_("reconstruct" in self.now)
        self.logit.requires_grad_("align" in self.now)

    @torch.no_grad()
    def refresh(self, stage: int, see: Callable[[], Features]) -> None:
        for mine, its in zip(self.encoder.state_dict().values(), self.other.state_dict().values()):
            kept = mine.clone()
            mine.copy_(its)
            its.copy_(kept)

    def features(self, batch: Batch) -> Features:
        slices = batch.only(*(s for s in batch.sources if view_of(s) > 1))
        whole = batch.only(*(s for s in batch.sources if view_of(s) == 1))
        columns = {}
        if "contrast" in self.now:
            columns |= vectors(self.encoder, alone(self.encoder, slices), batch.size).columns
        if "reconstruct" in self.now:
            context, content = alone(self.encoder, whole), self.encoder.patchify(whole)
            for s, bag in content.items():
                vector = self.encoder.pools[field_of(s)](context[s])
                columns[f"told/{s}"] = self.tell(self.encoder, vector, bag, whole[s].values)
        if "align" in self.now:
            columns |= vectors(self.encoder, context, batch.size).columns
            with torch.no_grad():
                frozen = vectors(self.other, alone(self.other, whole), batch.size)
            columns |= {f"frozen/{s}": column for s, column in frozen.columns.items()}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, torch.Tensor]:
        found, z = {}, {s: features[s] for s in features if "/" not in s}
        if "contrast" in self.now:
            slices = [column for s, column in z.items() if view_of(s) > 1]
            every, record = (
                torch.cat(parts) for parts in zip(*((c.values, c.rows) for c in slices))
            )
            found["contrast"] = contrastive_margin(
                every, record, margin=self.margin, hardest=self.hardest
            )
        if "reconstruct" in self.now:
            found |= share(
                {
                    f"reconstruct/{s[5:]}": token_mean(features[s])
                    for s in features
                    if s.startswith("told/")
                }
            )
        if "align" in self.now:
            logit = dict(scale=self.logit(), bias=self.logit.bias)
            pairs = {s: (z[s].values, features[f"frozen/{s}"].values) for s in z if view_of(s) == 1}
            found |= share(
                {
                    f"align/{s}": self.weight * sigmoid_loss(*pair, **logit)
                    for s, pair in pairs.items()
                }
            )
        return found

"""MLEM: contrastive and generative embeddings of a sequence are two modalities, which are aligned.

Moskvoretskii et al., 2024, arXiv:2401.15935. Row 7 of the catalogue. In the first stage slices of a
record attract each other (CoLES, arXiv:2002.08232). Then that encoder is frozen. A second one
learns from its start to give the vector from which a causal decoder reconstructs the record event
by event, while its vectors are aligned with the frozen ones by the sigmoid loss of SigLIP. The
second encoder is the result.

Differs:

- encoder: a GRU in both directions (32 units each at `nano`), of which the mean of the states is
  the vector. Theirs has one direction and 512 units; the last state, through a LayerNorm, is the
  vector. An event's categories and numbers are embedded in 32 dimensions each and put side by side
  with the time since the event before, which is also predicted, with weight 10. Here an event is
  what its modality makes of it, and its time is one of its numbers.
- inputs: every field is reconstructed, not events alone. Slices of all fields of a record attract
  each other, so that fields can be compared.
- slices: `local`, a stretch of random length and place. For the data set Age theirs are four
  stretches of 50 events at equal steps, the same in every epoch; and 5 % of the events are dropped.
- contrast: the distance is one of unit vectors, and the loss is divided by their number, where the
  authors' is a sum. Their margin for Age is .87 (`--method.margin 0.87`), and their head has a
  hidden layer, here it is linear.
- alignment: both vectors have a linear head into the common space. Theirs compares the vectors as
  they are, which have one width.
- decoder: cross-attention to one vector is a linear map of it, so it is one. Theirs is 256 wide
  within its blocks, here four times the width; positions are learned there.
- reconstruction: a mean over events and fields, where the authors sum numbers over events, so
  `weight` is 1 for their 10. They smooth labels by .05, and draw the vector towards 0 (L1, .001).
- the second encoder starts from the first one's initial weights, not from others.
- dropout: theirs is .03; here there is none.
- recipe: `PAPER_RECIPE` is that of the second stage for Age. The first has a rate of 1e-3, no decay
  and batches of 64. Epochs are those of the last runs of their scripts, 70 and 250 (so
  `--method.contrastive_share 0.22`); the best epoch of the validation is taken. Adam's decay is
  AdamW's here.
- product: the vector of a sequence, for probes and boosting (`linear`, `boosting`) and fine-tuning
  (`amodal adapt`), and what comes next: `amodal evaluate RUN --protocols next_event` reads each
  cell of the last event, and the time until it, off the vector of those before. The first stage has
  the rate and the batch of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Recipe,
    field_of,
    unknown,
    view_of,
)
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.generation import FieldDecoders
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import frozen_copy, share, token_mean
from amodal.methods.shared.typed_parts import bias_of
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.margin import contrastive_margin
from amodal.objectives.sigmoid import sigmoid_loss

ENCODER = {"mixer": "gru"}
TERMS = {  # the terms of each stage
    "mlem": (("contrast",), ("reconstruct", "align")),
    "contrastive": (("contrast",),),
    "generative": (("reconstruct",),),
    "sum": (("contrast", "reconstruct"),),
}

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-3,
    weight_decay=1e-3,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    batch_size=128,
    epochs=320.0,
)
"""The authors' configuration of the second stage for the data set Age."""


def mlem(
    encoder: Encoder,
    *,
    objective: str = "mlem",
    contrastive_share: float = 0.5,
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
    """A contrastive encoder, then a generative one that is aligned with it.

    Args:
        encoder: Gets heads into a common space.
        objective: "mlem", or a baseline of the paper: "contrastive" (CoLES), "generative", or the
            "sum" of both on one encoder.
        contrastive_share: Share of the steps for the contrastive encoder.
        slices: Slices of each value, which attract each other.
        margin: Least distance between slices of different records.
        hardest: Number of hardest negatives of each slice.
        width: Width of the common space.
        weight: Weight of the alignment.
        scale: Initial value of the learned scale of the alignment's logits.
        bias: Initial value of their learned bias.
        decoder: Width of the decoder.
        depth: Number of blocks of the decoder.
        heads: Number of attention heads of the decoder.

    Raises:
        AmodalError: If `objective` is unknown, `slices` or `contrastive_share` is out of range, or
            a field has a pretrained backbone.
    """
    if objective not in TERMS:
        raise unknown("objective of mlem", objective, TERMS)
    if slices < 2 or not 0 < contrastive_share < 1:
        raise AmodalError(
            "mlem needs 2 slices at least and a `contrastive_share` between 0 and 1, not "
            f"{slices} and {contrastive_share}"
        )
    decoders = FieldDecoders(encoder, width=decoder, depth=depth, heads=heads)
    # no loss of the generative baseline reaches such heads
    encoder = encoder if objective == "generative" else encoder.align(width)
    return Mlem(
        encoder,
        decoder=decoders,
        logit=Scale(scale, bias=bias),
        terms=TERMS[objective],
        stages=(contrastive_share, 1.0) if objective == "mlem" else (1.0,),
        slices=slices,
        margin=margin,
        hardest=hardest,
        weight=weight,
    )


@dataclass(frozen=True, kw_only=True)
class MlemFeatures(FeatureRecord):
    """What the terms of the stage need; empty for the others."""

    aligned: Columns  # source -> (N, D), of slices, or of whole values for the alignment
    reconstruction: Columns  # source -> (N, 2), sum and number of the losses of its tokens
    frozen: Columns  # source -> (N, D), of whole values by the frozen encoder


class Mlem(StagedMethod):
    """See `mlem`.

    Args:
        decoder: Reconstructs values from vectors.
        logit: Scale and bias of the alignment.
        terms: The terms of each stage: "contrast", "reconstruct", "align".
        stages: Where they end, as shares of the steps.
        slices, margin, hardest, weight: As of `mlem`.
    """

    min_batch_size = 2
    refresh_first = False

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder: FieldDecoders,
        logit: Scale,
        terms: Sequence[Sequence[str]],
        stages: tuple[float, ...],
        slices: int,
        margin: float,
        hardest: int,
        weight: float,
    ):
        super().__init__()
        self.encoder, self.decoder, self.logit = encoder, decoder, logit
        self.terms, self.stages, self.views = terms, stages, ("plain", *("local",) * slices)
        self.margin, self.hardest, self.weight = margin, hardest, weight
        # the encoder at its start, from the second stage on the contrastive one
        frozen = frozen_copy(encoder)
        assert isinstance(frozen, Encoder)
        self.frozen_encoder = frozen
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.active = self.terms[stage]
        self.decoder.requires_grad_("reconstruct" in self.active)
        self.logit.requires_grad_("align" in self.active)

    @torch.no_grad()
    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> None:
        """Swap the trained encoder and its frozen copy from the start."""
        frozen = self.frozen_encoder.state_dict().values()
        # values change places, not modules, so that tensors keep their names in checkpoints
        for here, other in zip(self.encoder.state_dict().values(), frozen):
            trained = here.clone()
            here.copy_(other)
            other.copy_(trained)

    def features(self, batch: Batch) -> MlemFeatures:
        slices = batch.only(*(s for s in batch.sources if view_of(s) > 1))
        whole = batch.only(*(s for s in batch.sources if view_of(s) == 1))
        aligned: dict[str, Column] = {}
        reconstruction: dict[str, Column] = {}
        frozen: dict[str, Column] = {}
        if "contrast" in self.active:
            aligned |= vectors(self.encoder, alone(self.encoder, slices), batch.size).columns
        if "reconstruct" in self.active:
            context, content = alone(self.encoder, whole), self.encoder.patchify(whole)
            for s, tokens in content.items():
                vector = self.encoder.pools[field_of(s)](context[s])
                reconstruction[s] = self.decoder(self.encoder, vector, tokens, whole[s].values)
        if "align" in self.active:
            aligned |= vectors(self.encoder, context, batch.size).columns
            with torch.no_grad():
                other = alone(self.frozen_encoder, whole)
                frozen = vectors(self.frozen_encoder, other, batch.size).columns
        return MlemFeatures(
            size=batch.size, aligned=aligned, reconstruction=reconstruction, frozen=frozen
        )

    def losses(self, features: MlemFeatures) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if "contrast" in self.active:
            slices = [c for s, c in features.aligned.items() if view_of(s) > 1]
            terms["contrast"] = contrastive_margin(
                torch.cat([c.flat for c in slices]),
                torch.cat([c.rows for c in slices]),
                margin=self.margin,
                hardest=self.hardest,
            )
        if "reconstruct" in self.active:
            terms |= share(
                {f"reconstruct/{s}": token_mean(c) for s, c in features.reconstruction.items()}
            )
        if "align" in self.active:
            scale, bias = self.logit(), bias_of(self.logit)
            terms |= share(
                {
                    f"align/{s}": self.weight
                    * sigmoid_loss(c.flat, features.frozen[s].flat, scale=scale, bias=bias)
                    for s, c in features.aligned.items()
                    if view_of(s) == 1
                }
            )
        return terms

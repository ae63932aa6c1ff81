"""STRUCTURE: frozen encoders are aligned from few pairs by heads that must keep each field's own
neighbourhoods. Gröger, Wen, Le & Brbić, NeurIPS 2025, arXiv:2506.16895. Loss: InfoNCE between every
two fields and, for each field, `structure_loss` over all rows that have it, paired or not, with a
weight that rises over the first steps. Which layers to align is told by
`amodal.diagnose.neighbours`. The encoder must be trained beforehand (pretrained backbones, or
weights of a run): it stays as it is, and only the heads into the common space learn. Temperature,
weight and warm-up are those of the authors' configuration. Row 92 of the catalogue."""

import torch
from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.methods.contract import Clock, Features, Method, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.structure import structure_loss


def structure_reg(
    encoder: Encoder,
    *,
    width: int = 512,
    hidden: int = 0,
    temperature: float = 0.05,
    weight: float = 10.0,
    levels: int = 1,
    margin: float = 0.0,
    warmup: int = 1000,
) -> Method:
    """width: of the common space; hidden: of the heads' hidden layer, 0 for linear ones;
    temperature: of InfoNCE and of the neighbourhoods; weight: of the structure term, reached after
    the warm-up; levels: hops of a neighbourhood; margin: a divergence that is let be; warmup: steps
    over which the weight rises."""
    return Structure(
        two_fields(encoder).align(width, hidden), temperature, weight, levels, margin, warmup
    )


class Structure(StagedMethod):
    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        temperature: float,
        weight: float,
        levels: int,
        margin: float,
        warmup: int,
    ):
        super().__init__()
        self.encoder, self.temperature, self.weight, self.warmup = (
            encoder,
            temperature,
            weight,
            warmup,
        )
        self.keeping = {"temperature": temperature, "levels": levels, "margin": margin}
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.on_stage_start(1)

    def on_stage_start(self, stage: int) -> None:
        self.encoder.requires_grad_(False)
        self.encoder.heads.requires_grad_(True)

    def features(self, batch: Batch) -> Features:
        with torch.no_grad():
            frozen = self.encoder.features(batch)
        aligned = self.encoder.project(frozen)
        return Embeddings(aligned.columns | {f"frozen/{s}": frozen[s] for s in aligned}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings(
            {s: c for s, c in features.columns.items() if not s.startswith("frozen/")},
            features.size,
        )
        pairs = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature)
            for a, b in field_pairs(z)
        }
        kept = {
            f"structure/{s}": structure_loss(
                features[f"frozen/{s}"].values, z[s].values, **self.keeping
            )
            for s in z.sources
        }
        # the first step counts too, so that no step leaves the term without a gradient
        weight = self.weight * ((self.steps + 1) / max(self.warmup, 1)).clamp(max=1)
        return share(pairs) | {name: weight * term for name, term in share(kept).items()}

    def on_step_end(self, clock: Clock) -> None:
        self.steps.fill_(clock.step)

"""Is anything being learnt? Measured without labels on records held out from training; a collapsed
run is stopped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from amodal.core import AmodalError, Batch, Embeddings, field_of
from amodal.core.embeddings import FUSED
from amodal.diagnose.spectrum import effective_rank
from amodal.nn.encoder import Encoder
from amodal.objectives.alignment_uniformity import alignment, uniformity

ENOUGH = 32  # rows below which a spectrum says nothing


class Stopped(AmodalError):
    """A run that would not have come to anything."""


class Watch:
    """held_out: batches of records that are not trained on. least_rank: an effective rank below it,
    twice in a row, is a collapse."""

    def __init__(self, held_out: Sequence[Batch], least_rank: float = 1.5):
        self.held_out, self.least_rank = list(held_out), least_rank
        self.low: dict[str, int] = {}

    @torch.no_grad()
    def measure(self, encoder: Encoder) -> dict[str, float]:
        """rank/source, std/source: effective rank and mean per-dimension deviation (1 = spread
        evenly) of the features; uniformity/source and alignment/a~b: of the aligned vectors (Wang &
        Isola 2020; lower is better)."""
        if not self.held_out:
            return {}
        training = encoder.training
        encoder.eval()
        # a method may have taken fields out of the encoder, which it reads another way
        own = (
            batch.only(*(s for s in batch.sources if field_of(s) in encoder.fields))
            for batch in self.held_out
        )
        features = [encoder.features(batch) for batch in own]
        aligned = Embeddings.stack([encoder.project(f) for f in features])
        features = Embeddings.stack(features)
        encoder.train(training)
        found: dict[str, float] = {}
        for s in features:
            z = features[s].values.float()
            if not z.isfinite().all():
                found[f"rank/{s}"] = math.nan
            elif len(z) >= ENOUGH:
                found[f"rank/{s}"] = float(effective_rank(z - z.mean(0)))
                found[f"std/{s}"] = float(
                    torch.nn.functional.normalize(z, dim=1).std(0).mean() * z.shape[1] ** 0.5
                )
                if s in aligned:  # vectors of all fields together may have no head
                    found[f"uniformity/{s}"] = float(uniformity(aligned[s].values.float()))
        for a, b in itertools.combinations([s for s in aligned if s != FUSED], 2):
            x, y = aligned.pair(a, b)
            if len(x) >= ENOUGH:
                found[f"alignment/{a}~{b}"] = float(alignment(x.float(), y.float()))
        return found

    def judge(
        self, found: dict[str, float], step: int, last_good: object, *, settled: bool = True
    ) -> None:
        """Raises Stopped when some source's features are not numbers any more or, once the learning
        rate has `settled`, have had next to one dimension twice in a row."""
        for name, rank in found.items():
            kind, _, source = name.partition("/")
            if kind != "rank":
                continue
            if math.isnan(rank):
                raise Stopped(
                    f"stopped at step {step}: the features of {source!r} are no longer finite. A lower learning rate (--lr) or "
                    f"--precision float32 may help; {told(last_good)}."
                )
            if not settled:
                continue
            self.low[source] = self.low.get(source, 0) + 1 if rank < self.least_rank else 0
            if self.low[source] >= 2:
                raise Stopped(
                    f"stopped at step {step}: the features of {source!r} have collapsed (effective rank {rank:.2f}, below "
                    f"{self.least_rank}, twice in a row). A lower learning rate (--lr), stronger augmentation or another method "
                    f"may help; {told(last_good)}."
                )


def told(last_good: object) -> str:
    return f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"

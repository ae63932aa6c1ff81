"""Label-free measurements on held-out records, and a stop for collapsed runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from amodal.core import AmodalError, Batch, Embeddings, field_of
from amodal.core.embeddings import FUSED, vectors
from amodal.diagnose.spectrum import effective_rank
from amodal.nn.encoder import Encoder
from amodal.objectives.alignment_uniformity import alignment, uniformity

MIN_ROWS = 32
"""Rows below which a spectrum is not meaningful."""


class TrainingStopped(AmodalError):
    """A run that cannot succeed: its loss is not finite, or its features have collapsed."""


class CollapseMonitor:
    """Measures the features of held-out records and stops a collapsed run.

    Args:
        held_out: Batches of records that are not trained on.
        min_rank: An effective rank below it, twice in a row, is a collapse.
    """

    def __init__(self, held_out: Sequence[Batch], min_rank: float = 1.5):
        self.held_out, self.min_rank = list(held_out), min_rank
        self.low_counts: dict[str, int] = {}
        self.fixed: set[str] = set()

    @torch.no_grad()
    def measure(self, encoder: Encoder) -> dict[str, float]:
        """Measure the held-out records.

        Returns:
            `rank/source`: effective rank of the features. `std/source`: their mean deviation per
            dimension (1 = spread evenly). `uniformity/source` and `alignment/a~b`: of the aligned
            vectors (Wang & Isola 2020; lower is better).
        """
        if not self.held_out:
            return {}
        training = encoder.training
        self.fixed = fixed_fields(encoder)
        encoder.eval()
        # a method may have taken fields out of the encoder to read them another way
        readable = (
            batch.only(*(s for s in batch.sources if field_of(s) in encoder.fields))
            for batch in self.held_out
        )
        parts = [encoder.features(batch) for batch in readable]
        aligned = Embeddings.stack([encoder.project(part) for part in parts])
        features = Embeddings.stack(parts)
        encoder.train(training)
        values: dict[str, float] = {}
        for s in features:
            z_ND = vectors(features[s]).float()
            if not z_ND.isfinite().all():
                values[f"rank/{s}"] = math.nan
            elif len(z_ND) >= MIN_ROWS:
                unit = nn.functional.normalize(z_ND, dim=1)
                # centred, or a mean far from zero would pass for the only dimension
                values[f"rank/{s}"] = float(effective_rank(z_ND - z_ND.mean(0)))
                # unit vectors that are spread evenly deviate by 1 / sqrt(D) in each dimension
                values[f"std/{s}"] = float(unit.std(0).mean() * z_ND.shape[1] ** 0.5)
                if s in aligned:  # fused vectors may have no head
                    values[f"uniformity/{s}"] = float(uniformity(vectors(aligned[s]).float()))
        for a, b in itertools.combinations([s for s in aligned if s != FUSED], 2):
            x_ND, y_ND = aligned.pair(a, b)
            if len(x_ND) >= MIN_ROWS:
                values[f"alignment/{a}~{b}"] = float(alignment(x_ND.float(), y_ND.float()))
        return values

    def check(
        self, values: Mapping[str, float], step: int, last_good: object, *, settled: bool = True
    ) -> None:
        """Check what `measure` returned.

        Args:
            last_good: The latest checkpoint, or None.
            settled: Whether the warm-up is over. A collapse is not judged before that.

        Raises:
            TrainingStopped: If features are not finite, or have had next to one dimension twice in
                a row.
        """
        for name, rank in values.items():
            kind, _, source = name.partition("/")
            if kind != "rank":
                continue
            if math.isnan(rank):
                raise TrainingStopped(
                    f"stopped at step {step}: the features of {source!r} are no longer finite. "
                    "A lower learning rate (--lr) or --precision float32 may help; "
                    f"{checkpoint_note(last_good)}."
                )
            if not settled:
                continue
            low = rank < self.min_rank and field_of(source) not in self.fixed
            self.low_counts[source] = self.low_counts.get(source, 0) + 1 if low else 0
            if self.low_counts[source] >= 2:
                raise TrainingStopped(
                    f"stopped at step {step}: the features of {source!r} have collapsed "
                    f"(effective rank {rank:.2f}, below {self.min_rank}, twice in a row). "
                    "A lower learning rate (--lr), stronger augmentation or another method may "
                    f"help; {checkpoint_note(last_good)}."
                )


def checkpoint_note(last_good: object) -> str:
    return f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"


def fixed_fields(encoder: nn.Module) -> set[str]:
    """The fields of which no part learns before the heads."""
    if not isinstance(encoder, Encoder) or encoder.trunk != "separate":
        return set()
    parts = (encoder.tokenizers, encoder.trunks, encoder.pools, encoder.extra_blocks)

    def learns(field: str) -> bool:
        own = [p for part in parts if field in part for p in part[field].parameters()]
        return any(p.requires_grad for p in [*own, encoder.field_token[field]])

    return {field for field in encoder.fields if not learns(field)}

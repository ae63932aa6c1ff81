"""TS2Vec: each step of a series has a vector, which two overlapping crops of the series must agree
on, at every time scale. Yue, Wang, Duan, Yang, Huang, Tong and Xu, AAAI 2022, arXiv:2106.10466.
Loss: their hierarchical contrast (algorithm 1, equations 1 to 3) of the steps that two random crops
share. Each crop is encoded with a mask of its own over its steps, and without knowing where in the
series it lies.

Each series (and sound) learns by itself. Fields of other modalities stay as they are.

Differs:
- A step is a token, so `patch` samples; patch=1 in dataset.toml is the paper's. A missing sample
  counts as the mean and is flagged; the paper sets a step with any missing sample to zero.
- Rows differ in length, so each draws the lengths of its crops; the paper draws them once a batch.
  A step is compared with the same step of those rows that have it.
- The trunk (`mixer="dilated"`) is as wide within as it is outside (64 for nano, the paper's 64
  inside), while the paper's output has 320 dimensions.
- The offset of the field is added to the tokens before masking. Masked tokens are zero, as there.
- What is saved are the last weights, not the mean of those of all steps (`--ema` is similar).
- The recipe has 200 steps, the paper's number for sets of up to 100,000 samples; it has 600 for
  larger ones.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, Tokens, name_code
from amodal.core.host import host_copy
from amodal.masking.hashing import hash_bits, uniform
from amodal.methods.contract import Features, Method
from amodal.methods.shared.one_modality import only_fields
from amodal.methods.shared.shapes import ragged, token_column
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.objectives.hierarchical_contrast import hierarchical_contrast

RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup_steps=0,
    clip=0.0,
    batch_size=8,
    steps=200,
)
ENCODER = {"mixer": "dilated", "pool": "max", "positions": "none"}
CROP, MASK, DROPOUT = 0, 1, 2
"""Streams of random numbers."""


def ts2vec(
    encoder: Encoder,
    *,
    mask: float = 0.5,
    instance_weight: float = 0.5,
    dropout: float = 0.1,
) -> Ts2Vec:
    """Contrast the steps that two crops of a series share.

    Args:
        encoder: Of at least one series.
        mask: Chance of a step to be masked.
        instance_weight: Of the contrast between series; that within a series has the rest of 1.
        dropout: Chance of each number of a step's vector to be dropped.

    Raises:
        AmodalError: Without a series, for a series with a pretrained backbone, and for shares
            outside 0 … 1.
    """
    for name, value in (("mask", mask), ("dropout", dropout)):
        if not 0 <= value < 1:
            raise AmodalError(f"ts2vec.{name} is a chance, from 0 to below 1, not {value:g}")
    if not 0 <= instance_weight <= 1:
        raise AmodalError(f"ts2vec.instance_weight is from 0 to 1, not {instance_weight:g}")
    return Ts2Vec(encoder, mask=mask, instance_weight=instance_weight, dropout=dropout)


class Ts2Vec(Method):
    """See `ts2vec`."""

    views = ("plain",)
    min_batch_size = 2

    def __init__(self, encoder: Encoder, *, mask: float, instance_weight: float, dropout: float):
        super().__init__()
        self.encoder, self.mask, self.dropout = encoder, mask, dropout
        self.instance_weight = instance_weight
        self.series = only_fields(
            encoder,
            lambda modality: modality.layout == "signal",
            method="ts2vec",
            kind="series",
            instead="simclr or mae",
        )
        if contextual := [f for f in self.series if encoder.contextual(f)]:
            raise AmodalError(
                "ts2vec masks steps before they see each other, and those of "
                f"{', '.join(contextual)} come from a backbone where they have. Leave the backbone "
                "out, or take simclr."
            )

    def features(self, batch: Batch) -> Features:
        """`FIELD:1` and `FIELD:2` -> lists of vectors of the steps that both crops have."""
        columns: dict[str, Column] = {}
        for field in self.series:
            whole = self.encoder.patchify(batch.only(field))[field]
            crops = draw_crops(whole.lengths(), batch.seeds, name_code(field))
            parts = {
                f"{field}:{view}": self.masked(whole.keep(within(whole, *crop)), batch.seeds, view)
                for view, crop in enumerate((crops[:2], crops[2:]), 1)
            }
            for (source, context), (start, stop) in zip(
                self.encoder.encode(parts).items(), overlaps(crops)
            ):
                steps = self.dropped(field_pool(self.encoder, field).strip(context), batch.seeds)
                columns[source] = token_column(steps.keep(within(steps, start, stop)))
        return Embeddings(columns, batch.size)

    def masked(self, crop: Tokens, seeds: Tensor, view: int) -> Tokens:
        """A crop as one view: numbered from its own start, some of its steps zero."""
        place, field = crop.within(), crop.names[0]
        position = torch.zeros_like(crop.position)
        position[:, 0] = place.to(position.dtype)
        seen = self.encoder.add_positions(replace(crop, position=position))
        seed_T = hash_bits(seeds, name_code(field), MASK, view)[crop.row]
        visible = uniform(seed_T, place) >= self.mask
        source = replace(seen, names=(f"{field}:{view}",))
        return source.with_x(seen.x * visible.unsqueeze(1).to(seen.x.dtype))

    def dropped(self, steps: Tokens, seeds: Tensor) -> Tokens:
        """Steps after dropout, while training."""
        if not self.training:
            return steps
        seed_T = hash_bits(seeds, name_code(steps.names[0]), DROPOUT)[steps.row]
        seed_T = hash_bits(seed_T, steps.within())
        return steps.with_x(seeded_dropout(steps.x, seed_T, self.dropout))

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for field in self.series:
            a, b = (ragged(features[f"{field}:{view}"]) for view in (1, 2))
            if len(a):
                x, y = (pad_sequence(list(z.split()), batch_first=True) for z in (a, b))
            else:
                x, y = (z.flat.unsqueeze(0) for z in (a, b))
            both = hierarchical_contrast(x, y, a.lengths, instance_weight=self.instance_weight)
            terms |= {f"{n}/{field}": v for n, v in zip(("instance", "temporal"), both)}
        return {n: term / len(self.series) for n, term in terms.items()}


def draw_crops(lengths_B: Tensor, seeds_B: Tensor, code: int) -> tuple[Tensor, ...]:
    """Two crops of each row that overlap by at least two steps, where a row has two.

    As in the authors' code: the length of the overlap, its place, how far the first crop begins
    before it and how far the second ends after it, and where both lie together.

    Args:
        lengths_B: Steps of each row.
        seeds_B: Of the rows.
        code: Of the field.

    Returns:
        Starts and ends of the first crop, then those of the second, each (B,) int64 on the CPU.
    """
    steps, seeds = host_copy(lengths_B), host_copy(seeds_B)

    def between(draw: int, low: Tensor, high: Tensor) -> Tensor:
        """A whole number from low to high, both included."""
        share = uniform(seeds, code, CROP, draw).double()
        return low + (share * (high - low + 1)).long()

    zero = torch.zeros_like(steps)
    overlap = between(0, steps.clamp(max=2), steps)
    left = between(1, zero, steps - overlap)
    first = between(2, zero, left)
    last = between(3, left + overlap, steps)
    shift = between(4, -first, steps - last)
    return first + shift, left + overlap + shift, left + shift, last + shift


def overlaps(crops: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Where the steps of both crops are in each: starts and ends, counted from its own start."""
    first, right, left, last = crops
    return (left - first, right - first), (torch.zeros_like(left), right - left)


def within(tokens: Tokens, start_B: Tensor, stop_B: Tensor) -> Tensor:
    """(T,) bool on the CPU: the tokens of each row from its start to before its stop."""
    bare = tokens.skeleton()
    place = bare.within()
    return (place >= start_B[bare.row]) & (place < stop_B[bare.row])

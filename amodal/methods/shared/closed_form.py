"""Maps of locked towers into one space: in closed form at the start, and then learned or not."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    AmodalWarning,
    Batch,
    Column,
    Embeddings,
    Tokens,
    field_of,
    name_code,
)
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.features import Features
from amodal.core.part import Part
from amodal.masking.hashing import uniform
from amodal.methods.contrastive.clip import pairwise_info_nce
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import IdentityHead, LinearHead, ResidualHead
from amodal.nn.pooling import MeanPool
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.stats.canonical import MIN_PAIRS, HeldOut, Spectra, Sums, choose

HELD_OUT = 0.2
"""Share of the training records that choose penalties."""
MAX_RECORDS = 1000
"""Of these, that are ranked."""
HELD_OUT_STREAM = 1
"""Of the draws that hold records out."""
EPS = 1e-12
"""Keeps the map of a field that does not vary from a division by zero."""
MAX_SCALE = 1e3
"""Inverse temperature that is tried where it has no bound."""
SCALES = 41
"""Inverse temperatures that are tried, from 1 to the bound."""


class LinearTowers(Towers):
    """A linear map of the pooled features of each locked tower, then InfoNCE.

    Before the first step the maps are those of `amodal.stats.canonical`, and the temperature is the
    best one of held-out records.

    Args:
        encoder: Its towers are locked; it gets the maps.
        learns: Whether the maps learn after that; else the temperature alone does.
        dropout: Of the features, around their mean.
        hidden: Of a perceptron beside each map; 0 for none.
        scale: The inverse temperature, where records are too few to find the best one.

    Raises:
        AmodalError: For values out of range, fewer than two fields, a trunk that fields share, and
            tokens that are not pooled by their mean.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        learns: bool,
        dropout: float,
        hidden: int,
        scale: Scale,
    ):
        if not 0 <= dropout < 1:
            raise AmodalError(f"dropout is a share from 0 to below 1, not {dropout:g}")
        if hidden < 0:
            raise AmodalError(f"hidden is the width of a layer, or 0 for none, not {hidden}")
        two_fields(encoder)
        for name in encoder.fields:
            encoder.lock(name)
        self.on_backbone = tuple(name for name in encoder.fields if encoder.contextual(name))
        check_pools(encoder, self.on_backbone)
        heads = {
            name: _head(encoder.width, hidden, name in self.on_backbone) for name in encoder.fields
        }
        encoder.set_heads(heads, encoder.width)
        super().__init__(encoder, pairwise_info_nce(scale), views=("weak",), learned=scale)
        self.dropout = dropout
        if not learns:
            # a rate of 0 and not a lock: another process waits for gradients of every tower
            self.lr_multipliers = {"encoder.": 0.0}
        for name in encoder.fields:
            self.register_buffer(f"mean/{name}", torch.zeros(self._width_of(name)))

    def features(self, batch: Batch) -> Features:
        if not (self.training and self.dropout):
            embedded: Embeddings = self.encoder(batch)
            return embedded
        pooled = self.pooled(batch)
        columns = {}
        for source, column in pooled.columns.items():
            mean, seeds = self.get_buffer(f"mean/{field_of(source)}"), batch.seeds[column.rows]
            x_NF = vectors_of(column) - mean
            x_NF = seeded_dropout(x_NF, seeds, self.dropout, name_code(source)) + mean
            columns[source] = Column(x_NF, column.rows)
        return self.mapped(Embeddings(columns, batch.size))

    def pooled(self, batch: Batch) -> Embeddings:
        """Source -> (N, F): the mean token of a backbone, or the features of another tower."""
        columns = {}
        for source, column in batch.columns.items():
            name = field_of(source)
            if name in self.on_backbone:
                x_TF, lengths, position = self._backbone(name).features(column)
                tokens = Tokens.of(x_TF, column.rows, lengths, position, source, batch.size)
                columns[source] = tokens.pool()
            else:
                columns[source] = self.encoder.features(batch.only(source))[source]
        return Embeddings(columns, batch.size)

    def mapped(self, pooled: Embeddings) -> Embeddings:
        """Source -> (N, D): what the encoder makes of pooled features."""
        columns = {}
        for source, column in pooled.columns.items():
            name, x = field_of(source), vectors_of(column)
            if name in self.on_backbone:
                x = self._backbone(name).project(x) + self.encoder.field_token[name]
            columns[source] = Column(x, column.rows)
        return self.encoder.project(Embeddings(columns, pooled.size))

    @torch.no_grad()
    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Set the maps in closed form, and the temperature."""
        device, training = next(self.encoder.parameters()).device, self.training
        names = [*self.encoder.fields]
        fit, held_out, sample = Sums(names), Sums(names), Sample()
        self.eval()
        for batch in records:
            z, draws = self.pooled(batch.to(device)), uniform(batch.seeds, HELD_OUT_STREAM).cpu()
            columns = {f: Column(vectors_of(c).cpu(), c.rows.cpu()) for f, c in z.columns.items()}
            fit.add(at_rows(columns, draws >= HELD_OUT))
            held_out.add(at_rows(columns, draws < HELD_OUT))
            sample.add(columns, draws)
        self.train(training)
        self._fit(fit, held_out, sample)

    def _fit(self, fit: Sums, held_out: Sums, sample: Sample) -> None:
        pairs = [
            p for p in itertools.combinations(fit.names, 2) if fit.count.get(p, 0) >= MIN_PAIRS
        ]
        names = [f for f in fit.names if any(f in pair for pair in pairs)]
        for name in sorted({*fit.names} - {*names}):
            warnings.warn(
                f"fewer than {MIN_PAIRS} training records have {name} and another field, so there "
                "is nothing to fit its map to; it begins random",
                AmodalWarning,
                stacklevel=2,
            )
        if not names:
            return
        fit, whole = fit.of(names), (fit + held_out).of(names)
        spectra, width = Spectra.of(fit), self.encoder.width
        chosen_by = HeldOut({f: fit.mean(f) for f in names}, at_names(sample.columns(), names))
        choice = choose(spectra, chosen_by, width)
        maps = spectra.directions(choice.penalties).weighted(choice.power, width)
        self._set_scale([*chosen_by.pairs(maps)])
        maps = Spectra.of(whole).directions(choice.penalties).weighted(choice.power, width)
        for name, w_FD in maps.items():
            self._set_map(name, whole.mean(name), w_FD)

    def _set_scale(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The inverse temperature with the least InfoNCE, of SCALES from 1 to the bound."""
        assert isinstance(self.learned, Scale)
        if pairs:
            highest = min(self.learned.log_most, math.log(MAX_SCALE))
            logs = torch.linspace(0, highest, SCALES).tolist()
            losses = [
                sum(float(info_nce(a, b, temperature=math.exp(-log))) for a, b in pairs)
                for log in logs
            ]
            self.learned.log.fill_(logs[losses.index(min(losses))])

    def _set_map(self, name: str, mean_F: Tensor, w_FD: Tensor) -> None:
        """Write a map of centred rows into the encoder's parts; it has zeros beyond its width."""
        # cosines do not see a factor, and a fresh layer of this width has entries of this size
        w_FD = w_FD / (w_FD.square().mean() * len(w_FD)).sqrt().clamp_min(EPS)
        linear, width = self._linear(name), w_FD.shape[1]
        linear.weight.zero_()
        linear.bias.zero_()
        if name in self.on_backbone:  # which stands behind the map; of other towers, before it
            self.encoder.field_token[name].zero_()
        linear.weight[:width] = w_FD.T.to(linear.weight)
        linear.bias[:width] = (-mean_F @ w_FD).to(linear.bias)
        self.get_buffer(f"mean/{name}").copy_(mean_F)

    def _linear(self, name: str) -> nn.Linear:
        """The map of a field."""
        if name in self.on_backbone:
            return cast(nn.Linear, self._backbone(name).project)
        head = cast(nn.ModuleDict, self.encoder.heads)[name]
        return cast(nn.Linear, head.linear if isinstance(head, ResidualHead) else head)

    def _backbone(self, name: str) -> Any:
        return self.encoder.tokenizers[name]

    def _width_of(self, name: str) -> int:
        if name not in self.on_backbone:
            return self.encoder.width
        return int(self._backbone(name).project.in_features)


def _head(width: int, hidden: int, on_backbone: bool) -> Part:
    if hidden:
        return ResidualHead(width, hidden, linear=not on_backbone)
    return IdentityHead() if on_backbone else LinearHead(width, width, bias=True)


def check_pools(encoder: Encoder, fields: Iterable[str]) -> None:
    """Raise AmodalError unless the tokens of some fields are pooled by their mean.

    A mean commutes with the map behind a backbone, so the map is one of whole values.
    """
    for name in fields:
        if not isinstance(encoder.pools[name], MeanPool) or name in encoder.extra_blocks:
            raise AmodalError(
                f"maps in closed form are of the mean token of a backbone, and {name} is pooled in "
                f'another way; leave pool out (now "{encoder.pool_name}")'
            )


def at_rows(columns: Mapping[str, Column], chosen_B: Tensor) -> dict[str, Column]:
    """The columns with some rows of a batch."""
    return {name: column.at(chosen_B[column.rows]) for name, column in columns.items()}


def at_names(columns: Mapping[str, Column], names: Iterable[str]) -> dict[str, Column]:
    """Some of the columns."""
    return {name: columns[name] for name in names if name in columns}


class Sample:
    """Held-out records with the smallest draws, up to `MAX_RECORDS` and half of these."""

    def __init__(self) -> None:
        self.share, self.size = HELD_OUT, 0
        self.batches: list[tuple[Tensor, dict[str, Column]]] = []

    def add(self, columns: Mapping[str, Column], draws_B: Tensor) -> None:
        """Add the rows of a batch whose draw is small enough."""
        self.batches.append((draws_B, dict(columns)))
        self._shorten(-1)
        while self.size > MAX_RECORDS:
            self.share, self.size = self.share / 2, 0
            for i in range(len(self.batches)):
                self._shorten(i)

    def _shorten(self, i: int) -> None:
        draws_B, columns = self.batches[i]
        chosen = draws_B < self.share
        new_row = chosen.long().cumsum(0) - 1
        rows = {
            name: Column(c.values, new_row[c.rows]) for name, c in at_rows(columns, chosen).items()
        }
        self.batches[i] = draws_B[chosen], rows
        self.size += int(chosen.sum())

    def columns(self) -> dict[str, Column]:
        """Field -> (N, F) of all rows."""
        parts = [Embeddings(columns, len(draws)) for draws, columns in self.batches]
        return dict(Embeddings.stack(parts).columns) if parts else {}

"""Encoders of different runs as one, with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.core.argument_types import check_type, is_list_of_numbers
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble


class RunEnsemble(Ensemble):
    """Encoders that were trained by themselves, whose weighted unit vectors are concatenated.

    The cosine of two aligned vectors is the weighted mean of the members' cosines (V2L,
    arXiv:2207.12994). Members may differ in all but how their common fields are decoded.

    Args:
        members: Two at least.
        weights: One for each, above 0; equal if None.

    Raises:
        AmodalError: If members have no field in common, decode one otherwise, or compare vectors in
            another way, and for weights that do not fit.
    """

    def __init__(
        self, members: Sequence[Encoder | Ensemble], weights: Sequence[float] | None = None
    ):
        Part.__init__(self)  # that of an ensemble asks for linear heads, which are not needed here
        self.members = nn.ModuleList(members)
        self.weights = checked_weights(weights, len(members))
        first = members[0]
        self.common = [f for f in first.fields if all(f in m.fields for m in members)]
        if not self.common:
            named = " and ".join(", ".join(m.fields) for m in members)
            raise AmodalError(f"the runs of an ensemble have no field in common: {named}")
        for field in self.common:
            for number, member in enumerate(members[1:], 2):
                if member.fields[field] != first.fields[field]:
                    raise AmodalError(
                        f"run {number} of the ensemble reads {field!r} otherwise than the first, "
                        "and records are decoded once here: train both on the same data at the "
                        "same size (`amodal search --ensemble` embeds a query for each run)"
                    )
        if any(m.similarity != "cosine" or m.multi_vector is not None for m in members):
            raise AmodalError(
                "an ensemble is the mean of cosines, and one of the runs compares by |cosine| or "
                "by more than one vector of a value"
            )

    def _member(self, number: int) -> Encoder:
        return cast(Encoder, self.members[number])

    @property
    def fields(self) -> Mapping[str, Modality]:
        """Those that all members have."""
        return {name: self.first.fields[name] for name in self.common}

    def features(self, batch: Batch) -> Embeddings:
        """Features of the members, one after another, each times the root of its weight."""
        parts = [self._member(i).features(batch) for i in range(len(self.members))]
        return _joined([_scaled(z, w) for z, w in zip(parts, self._roots)])

    def project(self, features: Embeddings) -> Embeddings:
        """Unit vectors of the members, one after another, each times the root of its weight."""
        parts = []
        for number, root in enumerate(self._roots):
            z = self._member(number).project(_scaled(self.part(features, number), 1 / root))
            parts.append(_scaled(_unit(z), root))
        return _joined(parts)

    def part(self, features: Embeddings, number: int) -> Embeddings:
        """The features of one member, still weighted."""
        columns = {}
        for source, column in features.columns.items():
            widths = [self._width_of(self._member(i), source) for i in range(len(self.members))]
            columns[source] = Column(
                torch.split(vectors_of(column), widths, 1)[number], column.rows
            )
        return Embeddings(columns, features.size)

    @staticmethod
    def _width_of(member: Encoder, source: str) -> int:
        field = source.partition(":")[0]
        return (
            member.feature_width(field)
            if field in member.fields
            else member.feature_width(next(iter(member.fields)))
        )

    @property
    def _roots(self) -> list[float]:
        return [w**0.5 for w in self.weights]

    @property
    def width(self) -> int:
        """Of all members together."""
        return sum(m.feature_width(self.common[0]) for m in map(self._member, self._numbers))

    @property
    def space_width(self) -> int:
        """See `Encoder.space_width`."""
        return sum(m.space_width for m in map(self._member, self._numbers))

    def feature_width(self, field: str) -> int:
        """See `Encoder.feature_width`."""
        return sum(m.feature_width(field) for m in map(self._member, self._numbers))

    @property
    def _numbers(self) -> range:
        return range(len(self.members))


def checked_weights(weights: Sequence[float] | None, members: int) -> list[float]:
    """Weights that sum to 1.

    Raises:
        AmodalError: For fewer than two members, another number of weights, or one not above 0.
    """
    if members < 2:
        raise AmodalError("an ensemble is of two runs or more")
    weights = [1.0] * members if weights is None else weights
    check_type("weights", weights, is_list_of_numbers, "a list of numbers, one for each run")
    if len(weights) != members or min(weights) <= 0:
        raise AmodalError(
            f"an ensemble of {members} runs has as many weights, each above 0, the first run's "
            f"first; got {', '.join(map(str, weights))}"
        )
    return [float(w / sum(weights)) for w in weights]


def _scaled(z: Embeddings, factor: float) -> Embeddings:
    columns = {s: Column(vectors_of(c) * factor, c.rows) for s, c in z.columns.items()}
    return Embeddings(columns, z.size)


def _unit(z: Embeddings) -> Embeddings:
    columns = {s: Column(normalize(vectors_of(c), dim=1), c.rows) for s, c in z.columns.items()}
    return Embeddings(columns, z.size)


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    """The vectors of all parts, of the sources that all have."""
    shared = [s for s in parts[0].columns if all(s in z for z in parts)]
    columns = {
        s: Column(torch.cat([vectors_of(z[s]) for z in parts], 1), parts[0][s].rows) for s in shared
    }
    return Embeddings(columns, parts[0].size)

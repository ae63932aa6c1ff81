"""The yardstick of simple features: what tf-idf, tiny pixels or lengths get on the same records.

Each field's `Modality.simple_features`, fitted on training records, in the place of an encoder's
vectors. For retrieval each pair of fields has a space of its own: pairs of columns, or directions
of a regularised CCA (Vinod 1976), weighted by their correlation on a held-out fifth of the training
pairs, by which these and the penalty are chosen too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings
from amodal.core.column import shared_rows
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.protocols.retrieval import ranked
from amodal.inference.embed import Embedded
from amodal.modalities import BadValue, Modality, NoSimpleFeatures, Raw
from amodal.progress import Bar

MAX_TRAIN = 20_000
"""Training records that simple features are made of."""
MAX_WIDTH = 256
"""Dimensions of a field; wider ones are rotated and cut (PCA)."""
MAX_FITTED = 5000
"""Rows that a rotation is fitted on."""
MIN_PAIRS = 20
"""Of training, below which two fields have no common space."""
MAX_DIRECTIONS = 64
MATCHED = (1, 4, 16)
"""Pairs of single columns that are tried as directions."""
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""In mean variances of a field."""
MAX_CORRELATION = 0.995
RADIUS = 0.5
"""Typical length of vectors beside the constant 1 that makes cosines compare distances."""


class SimpleParts(EmbeddedParts):
    """Simple features of the records and rows of a model's embedded parts, made when first needed.

    Args:
        fields: Of the model.
        dataset: Where the records are.
        rows: Numbers of the training and of the test records.
        embedded: The model's parts. They say which values can be decoded.
        seed: Of the choice of training records.
        progress: Show a bar.

    Attributes:
        names: Field -> what its simple features are called, once they have been made.
    """

    def __init__(
        self,
        fields: Mapping[str, Modality],
        dataset: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        embedded: EmbeddedParts,
        *,
        seed: int = 0,
        progress: bool = False,
    ):
        self._reason: str | None = None
        self.names: dict[str, str] = {}

        def make() -> Pair:
            if self._reason is not None:
                raise NotApplicable(self._reason)
            try:
                models = embedded.pair
                with Bar("simple features", len(models[1].sources), shown=progress) as bar:

                    def step(field: str, name: str) -> None:
                        self.names[field] = name
                        bar.step("fields")

                    return _pair(fields, dataset, rows, models, seed, step)
            except NotApplicable as reason:
                self._reason = str(reason)
                raise

        super().__init__(make)


class FieldValues(Sequence[Raw]):
    """Raw values of one field, read when asked for.

    Args:
        dataset: Where they are.
        field: Their field.
        rows: (n,) numbers of records that have a value.

    Raises:
        BadValue: On reading a value that is gone.
    """

    def __init__(self, dataset: Dataset, field: str, rows: np.ndarray):
        self.dataset, self.field, self.rows = dataset, field, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> FieldValues: ...
    def __getitem__(self, index: int | slice) -> Raw | FieldValues:
        if isinstance(index, slice):
            return FieldValues(self.dataset, self.field, self.rows[index])
        raw = self.dataset.raw(int(self.rows[index]), self.field)
        if raw is None:
            raise BadValue(f"{self.field} has no value in record {self.rows[index]}")
        return raw


def _pair(
    fields: Mapping[str, Modality],
    dataset: Dataset,
    rows: tuple[np.ndarray, np.ndarray],
    models: Pair,
    seed: int,
    step: Callable[[str, str], object],
) -> Pair:
    train, test = models
    chosen = np.arange(len(train))
    if len(train) > MAX_TRAIN:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:MAX_TRAIN])
    columns: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
    for name in test.sources:
        if name not in fields or name not in train.aligned:
            continue
        at_train = np.flatnonzero(np.isin(chosen, train.aligned[name].rows.numpy()))
        at_test = test.aligned[name].rows.numpy()
        values = (
            FieldValues(dataset, name, rows[0][chosen[at_train]]),
            FieldValues(dataset, name, rows[1][at_test]),
        )
        try:
            transform = fields[name].simple_features(values[0])
            x = reduced([torch.from_numpy(transform(part)) for part in values])
        except (NoSimpleFeatures, BadValue):  # the file of a cached feature may be gone
            continue
        for side, part, at_rows in zip(columns, x, (at_train, at_test)):
            side[name] = Column(part, torch.from_numpy(at_rows.astype(np.int64)))
        step(name, getattr(transform, "name", fields[name].simple_name))
    if not columns[0]:
        raise NotApplicable("no field has simple features")
    return in_place_of(models, columns, chosen, fused=FUSED in train.probed(), seed=seed)


def in_place_of(
    models: Pair,
    columns: tuple[dict[str, Column], dict[str, Column]],
    chosen: np.ndarray,
    *,
    fused: bool,
    seed: int = 0,
) -> Pair:
    """Records with other features in the place of a model's vectors.

    Args:
        models: The model's training and test records.
        columns: Field -> features of these, by rows of `chosen` and of the test records.
        chosen: Numbers of the training records that have them.
        fused: Whether there are features of all fields, side by side.
        seed: Of the maps of two fields.
    """
    train, test = models
    sizes = len(chosen), len(test)
    flagged = [name for name, column in columns[0].items() if len(column) < len(chosen)]
    aligned = _aligned(columns, seed)
    made = []
    for side, space, size in zip(columns, aligned, sizes):
        probed = side | ({FUSED: _fused(side, size, flagged)} if fused else {})
        made.append((Embeddings(space, size), Embeddings(probed, size)))
    return (
        Embedded(
            [train.keys[i] for i in chosen.tolist()],
            *made[0],
            {name: values[chosen] for name, values in train.labels.items()},
        ),
        Embedded(test.keys, *made[1], test.labels, content=test.content),
    )


def reduced(parts: Sequence[Tensor]) -> list[Tensor]:
    """Training and test features of at most `MAX_WIDTH` dimensions and a typical length of 1."""
    train = parts[0]
    if train.shape[1] > MAX_WIDTH and len(train) > 1:
        some = train[torch.linspace(0, len(train) - 1, min(len(train), MAX_FITTED)).long()].double()
        centred = some - some.mean(0)
        v = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -MAX_WIDTH:].float()
        parts = [part @ v for part in parts]
    length = parts[0].square().sum(1).mean().sqrt().clamp_min(1e-9) if len(train) else 1.0
    return [part / length for part in parts]


def _fused(columns: Mapping[str, Column], size: int, flagged: Sequence[str]) -> Column:
    """Features of all fields side by side, zeros for those that a record lacks, and flags of them.

    Args:
        columns: Of the fields.
        size: Records.
        flagged: Fields that some training records lack.
    """
    blocks, exists = [], torch.zeros(size, dtype=torch.bool)
    for name, column in columns.items():
        x = vectors_of(column)
        blocks.append(x.new_zeros(size, x.shape[1]).index_copy(0, column.rows, x))
        present = column.present(size)
        exists |= present
        if name in flagged:
            blocks.append(present.to(x.dtype)[:, None])
    rows = exists.nonzero().squeeze(1)
    return Column(torch.cat(blocks, 1)[rows], rows)


def _aligned(
    columns: tuple[dict[str, Column], dict[str, Column]], seed: int
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Vectors in which the cosine of two fields is that of the space of these two.

    A field has a block for each pair of fields. A block of a pair that it is not in is 0, so that
    it does not count; the others have length 1.
    """
    names = list(columns[0])
    blocks: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = (
        {name: [] for name in names},
        {name: [] for name in names},
    )
    pairs = list(itertools.combinations(names, 2))
    for a, b in pairs:
        at_a, at_b = shared_rows(columns[0][a], columns[0][b])
        maps = pair_maps(vectors_of(columns[0][a])[at_a], vectors_of(columns[0][b])[at_b], seed)
        for part, side in zip(columns, blocks):
            for name in names:
                x = vectors_of(part[name])
                if name in (a, b):
                    side[name].append(maps[name == b](x))
                else:
                    side[name].append(x.new_zeros(len(x), maps[0].width))
    if not pairs:
        return columns
    train, test = (
        {n: Column(torch.cat(side[n], 1), part[n].rows) for n in names}
        for part, side in zip(columns, blocks)
    )
    return train, test


@dataclass(frozen=True)
class Map:
    """Of one field into the space of two.

    Args:
        mean: (F,)
        w: (F, D)
        constant: A further coordinate: 0, or 1 so that cosines compare distances.
    """

    mean: Tensor
    w: Tensor
    constant: float

    @property
    def width(self) -> int:
        """D, with the constant."""
        return self.w.shape[1] + 1

    def __call__(self, x_NF: Tensor) -> Tensor:
        """(N, D + 1) unit vectors, or zeros where the two fields share nothing."""
        z = (x_NF.double() - self.mean) @ self.w
        last = torch.full((len(z), 1), self.constant, dtype=z.dtype)
        return normalize(torch.cat([z, last], 1), dim=1).float()


def pair_maps(a_NF: Tensor, b_NG: Tensor, seed: int = 0) -> tuple[Map, Map]:
    """Fit maps of two fields into a common space.

    Args:
        a_NF: Features of the first field.
        b_NG: Of the second field of the same records.
        seed: Of the held-out fifth.

    Returns:
        A map for each.
    """
    a, b = a_NF.double(), b_NG.double()
    none = tuple(Map(x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], 1), 0.0) for x in (a, b))
    if len(a) < MIN_PAIRS:
        return none[0], none[1]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(a)))
    held, fit = order[: len(a) // 5], order[len(a) // 5 :]
    means = a[fit].mean(0), b[fit].mean(0)
    x, y = a[fit] - means[0], b[fit] - means[1]
    best, chosen = 0.0, (none[0], none[1])
    for w_a, w_b in itertools.chain(_columns(x, y), _canonical(x, y)):
        w_a, w_b = (w / (z @ w).std(0).clamp_min(1e-9) for z, w in ((x, w_a), (y, w_b)))
        weight = _weights((a[held] - means[0]) @ w_a, (b[held] - means[1]) @ w_b)
        if not weight.any():
            continue
        scale = RADIUS / weight.sum().sqrt()
        for constant in (0.0, 1.0):
            maps = (
                Map(means[0], w_a * weight.sqrt() * scale, constant),
                Map(means[1], w_b * weight.sqrt() * scale, constant),
            )
            score = _mean_reciprocal_rank(maps[0](a[held]), maps[1](b[held]))
            if score > best:
                best, chosen = score, maps
    return chosen


def _columns(x_NF: Tensor, y_NG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of one column each that correlate most, such as two durations.

    Canonical directions are never as clean where columns without a counterpart are many.
    """
    x, y = (z / z.std(0).clamp_min(1e-9) for z in (x_NF, y_NG))
    correlation = x.T @ y / len(x)
    left, columns = correlation.abs(), list[tuple[int, int]]()
    for _ in range(min(max(MATCHED), *left.shape)):
        i, j = divmod(int(left.argmax()), left.shape[1])
        left[i], left[:, j] = -1.0, -1.0
        columns.append((i, j))
    for most in MATCHED:
        w_a, w_b = (z.new_zeros(z.shape[1], len(columns[:most])) for z in (x, y))
        for d, (i, j) in enumerate(columns[:most]):
            w_a[i, d], w_b[j, d] = 1.0, 1.0 if correlation[i, j] > 0 else -1.0
        yield w_a, w_b


def _canonical(x_NF: Tensor, y_NG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Directions of a CCA for each penalty."""
    (e_a, v_a), (e_b, v_b) = (torch.linalg.eigh(z.T @ z / len(z)) for z in (x_NF, y_NG))
    cross = v_a.T @ (x_NF.T @ y_NG / len(x_NF)) @ v_b
    for penalty in PENALTIES:
        r_a, r_b = ((e.clamp_min(0) + penalty * e.mean() + 1e-12).rsqrt() for e in (e_a, e_b))
        u, _, vh = torch.linalg.svd(r_a[:, None] * cross * r_b, full_matrices=False)
        w_a = v_a @ (r_a[:, None] * u[:, :MAX_DIRECTIONS])
        yield w_a, v_b @ (r_b[:, None] * vh[:MAX_DIRECTIONS].T)


def _weights(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """(D,) weights of squared distances: the log ratio of the densities of pairs and of others.

    Directions whose correlation is within the error of these few pairs get 0.
    """
    a, b = ((z - z.mean(0)) / z.std(0).clamp_min(1e-9) for z in (a_ND, b_ND))
    r = (a * b).mean(0).clamp(0, MAX_CORRELATION)
    r = torch.where(r > len(a) ** -0.5, r, 0)
    return r / (1 - r.square())


def _mean_reciprocal_rank(a_ND: Tensor, b_ND: Tensor) -> float:
    most = slice(0, 1000)
    values = [ranked(q[most], g[most], recall_at=(1,)) for q, g in ((a_ND, b_ND), (b_ND, a_ND))]
    return sum(float(row["value"]) for rows in values for row in rows if row["metric"] == "MRR")

"""Cross-modal probe transfer: a probe fitted on one field is tested on another.

In the aligned space, for every pair of fields; on the diagonal the probe stays in its field. The
unit vectors of each field are centred at the mean of its training vectors, labelled or not. That
removes the constant gap between fields (Liang et al. 2022, arXiv:2203.02053), which says nothing
about what was learnt. Unless probes learn from all training records, the mean is that of a sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.context import Context
from amodal.evaluate.labels import Fit, label_spec, measure
from amodal.evaluate.needed_records import (
    Mask,
    PartRecords,
    drawn,
    labelled,
    sampled,
)
from amodal.evaluate.needs import LABEL, TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.knn import neighbours
from amodal.evaluate.protocols.linear import fit as fit_linear
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded

MAX_CENTRE = 1000
"""Records of the sample."""
PROBES: dict[str, Fit] = {"knn": neighbours, "linear": fit_linear}


def cross_modal_transfer(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    centre: bool = True,
) -> Result:
    """Fit probes on each field and test them on all fields.

    `source` of a row is the field that the probe was fitted on, `target` the one it is tested on.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        centre: Whether to centre each field.

    Raises:
        NotApplicable: For records with one field.
    """
    require_two_fields(test)
    y_train, y_test = train.label(label), test.label(label)
    sample = _centre_sample(train, seed)
    means = {
        s: normalize(vectors_of(column).float(), dim=1).mean(0)
        for s, column in sample.items()
        if len(column) and len(train.aligned[s])
    }
    learnt = {s: _centred(train.aligned[s], means[s], centre) for s in means}
    tested = {s: _centred(test.aligned[s], means[s], centre) for s in means}
    rows = []
    for probe, fit in PROBES.items():
        for source, column in learnt.items():
            scores = measure(
                fit,
                column,
                y_train,
                tested,
                y_test,
                few=few,
                draws=draws,
                seed=seed,
                population=train.population.get(source),
            )
            for target, metrics in scores.items():
                shared = {"source": source, "target": target, "probe": probe}
                rows += [{**shared, **row} for row in metrics]
    spec = label_spec(label, y_train, few, draws, seed) | {
        "centre": centre,
        "space": "aligned",
        "probes": list(PROBES),
    }
    return Result("cross_modal_transfer", spec | {"train": len(train), "test": len(test)}, rows)


def _centre_sample(train: Embedded, seed: int) -> dict[str, Column]:
    """Source -> the vectors whose mean is its centre."""
    columns = {s: train.aligned[s] for s in train.sources}
    if all(len(c) >= len(train.population.get(s, c)) for s, c in columns.items()):
        return columns
    chosen = sampled(np.arange(len(train)), MAX_CENTRE, seed)
    return {s: c.at(torch.from_numpy(np.isin(c.rows.numpy(), chosen))) for s, c in columns.items()}


def _centred(column: Column, mean_D: Tensor, centre: bool) -> Column:
    """Unit vectors, minus the mean of their field."""
    unit = normalize(vectors_of(column).float(), dim=1)
    return Column(unit - mean_D if centre else unit, column.rows)


def learnt_or_centre(part: PartRecords, context: Context) -> Mask:
    """Those that probes learn from, and a sample that centres are measured on."""
    mask = drawn(part, context)
    mask[sampled(np.arange(len(part)), MAX_CENTRE, context.seed)] = True
    return mask


class CrossModalTransfer(Protocol):
    """A probe learnt in one field and used in another."""

    name, needs = "cross_modal_transfer", (LABEL, TWO_FIELDS)
    needed = (learnt_or_centre, labelled)
    rank = 90
    measure = staticmethod(cross_modal_transfer)

    def draw(self, result: Result, path: Path) -> Path:
        """See `Protocol.draw`."""
        from amodal.evaluate.transfer_picture import cross_modal_transfer as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = CrossModalTransfer()

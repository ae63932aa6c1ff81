"""Every contrastive method takes two, three and four fields, and any pattern of which row has
which; every method all patterns of four."""

import itertools
import math
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from amodal import data, methods
from amodal.core import Batch, Column, field_of
from amodal.data import Label
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.knn import knn
from amodal.methods.contract import Clock
from amodal.train.loop import start_stage
from amodal.train.optim import adamw
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, SMALL, batch, exact, fields, method, raw

ROWS = 8
CONTRASTIVE = [name for name in methods.names() if methods.family(name) == "contrastive"]
NEEDED = {"scarf": "facts", "ts2vec": "signal"}
"""Methods of one modality -> the field of the bench that has it."""


def fields_for(name: str, count: int) -> tuple[str, ...]:
    """So many fields, with those that the options of the bench name."""
    named = [s for s in FIELDS if s in (*SMALL.get(name, {}).values(), NEEDED.get(name))]
    chosen = (named + [s for s in FIELDS if s not in named])[:count]
    return tuple(s for s in FIELDS if s in chosen)


def patterns(count: int) -> dict[str, torch.Tensor]:
    """(rows, fields) bool."""
    every, none = (
        torch.ones(ROWS, count, dtype=torch.bool),
        torch.zeros(ROWS, count, dtype=torch.bool),
    )
    row, field = torch.arange(ROWS)[:, None], torch.arange(count)
    found = {
        "all": every,
        "none": none,
        "one field a row, no pair": row % count == field,
        "one pair": none | (row < 1) & (field < 2),
        "one field with every other, no row complete": (field == 0)
        | (field == 1 + row % (count - 1)),
        "half the rows complete, half with one field": (row < ROWS // 2) | (field == 0),
        "two groups that share no field": (row < ROWS // 2) == (field < (count + 1) // 2),
        "one row complete, the others with all but one": (row == 0) | (row % count != field),
    }
    generator = torch.Generator().manual_seed(count)
    return found | {
        f"random {i}": torch.rand(ROWS, count, generator=generator) < 0.3 + 0.2 * i
        for i in range(3)
    }


@cache
def whole(views, fields) -> Batch:
    return exact(
        batch(
            views if isinstance(views, tuple) and isinstance(views[0], str) else dict(views),
            ROWS,
            patchy=False,
            sources=fields,
        )
    )


def only(full: Batch, present: torch.Tensor, fields) -> Batch:
    column = {s: present[:, k] for k, s in enumerate(fields)}
    return replace(
        full, columns={s: c.at(column[field_of(s)][c.rows]) for s, c in full.columns.items()}
    )


def shuffled(b: Batch, order: torch.Tensor) -> Batch:
    """Row i of the result is row order[i]."""
    place = torch.argsort(order)

    def moved(column: Column) -> Column:
        rows, at = place[column.rows].sort()
        return Column(column.values[at], rows)

    columns, labels = ({n: moved(c) for n, c in some.items()} for some in (b.columns, b.labels))
    return replace(
        b,
        columns=columns,
        labels=labels,
        keys=tuple(b.keys[i] for i in order),
        seeds=b.seeds[order],
    )


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_any_fields_of_any_rows(name, count):
    """Losses and gradients are finite, every tower is reached, rows may come in any order, and
    complete rows teach something."""
    fields = fields_for(name, count)
    m = exact(method(name, sources=fields))
    views = (
        m.views if isinstance(m.views, tuple) else tuple((k, tuple(v)) for k, v in m.views.items())
    )
    towers = {
        n
        for n, p in m.named_parameters()
        if ("trunks" in n or "tokenizers" in n) and p.requires_grad and p.numel()
    }
    for what, present in patterns(count).items():
        b = only(whole(views, fields), present, fields)
        found, orders = [], [b]
        if count == len(FIELDS):
            order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
            orders.append(shuffled(b, order))
        for rows in orders:
            m.zero_grad()
            terms = gradients(m, rows)
            found.append(torch.stack([*terms.values()]))
            assert found[-1].isfinite().all(), what
            reached = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
            assert all(g.isfinite().all() for g in reached.values()), what
            assert towers <= reached.keys(), what
        torch.testing.assert_close(
            found[0], found[-1], rtol=1e-9, atol=1e-9, msg=f"{what}: {found}"
        )
        if what == "all":  # a method that keeps its encoder frozen still teaches its heads
            assert (
                sum(float(g.abs().sum()) for n, g in reached.items() if n in towers or not towers)
                > 0
            )


PATTERNS = [p for p in itertools.product((False, True), repeat=len(FIELDS)) if any(p)]


@cache
def records() -> data.Dataset:
    """Four records of each pattern."""
    rng = np.random.default_rng(0)
    there = [p for p in PATTERNS for _ in range(4)]
    columns = {s: [raw(s, rng) if has[k] else None for has in there] for k, s in enumerate(FIELDS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = data.open(
            columns | {"kind": ["uvw"[i // 4 % 3] for i in range(len(there))]}
        ).with_fields(fields())
    found.labels["kind"] = Label()
    return found


@cache
def of_pattern(views, pattern: tuple[bool, ...]) -> Batch:
    full = batch(views if isinstance(views[0], str) else dict(views), 4, patchy=False)
    return only(full, torch.tensor([pattern] * 4), FIELDS)


@pytest.mark.parametrize("name", methods.names())
def test_every_pattern_of_four_fields_trains_and_evaluates(name):
    """All 15: a batch whose rows have that pattern makes a finite step of the optimizer; then
    records of all of them are embedded, and each is told by its neighbours."""
    assert len(PATTERNS) == 15
    m = method(name)
    views = (
        m.views if isinstance(m.views, tuple) else tuple((k, tuple(v)) for k, v in m.views.items())
    )
    optimizer = adamw(m, lr=1e-3, lr_multipliers=m.lr_multipliers)
    start_stage(m, 0)
    moved = 0
    for step, pattern in enumerate(PATTERNS, 1):
        optimizer.zero_grad(set_to_none=True)
        terms = gradients(m, of_pattern(views, pattern))
        assert torch.stack([*terms.values()]).isfinite().all(), pattern
        assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None), pattern
        moved += any(bool(p.grad.any()) for p in m.parameters() if p.grad is not None)
        optimizer.step()
        m.on_step_end(Clock(step, len(PATTERNS)))
    assert moved, "no pattern teaches anything"
    assert all(p.isfinite().all() for p in m.parameters())
    train, test = (
        embed_records(m.encoder.eval(), records(), range(k, 60, 2), batch=60) for k in (0, 1)
    )
    assert len(test.fused().rows) == 30 and test.fused().values.isfinite().all()
    for k, field in enumerate(FIELDS):
        assert test.features[field].rows.tolist() == [i for i in range(30) if PATTERNS[i // 2][k]]
    result = knn(train, test, label="kind", k=3)
    assert result.rows and all(math.isfinite(row["value"]) for row in result.rows)

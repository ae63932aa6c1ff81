"""Every contrastive method takes two, three and four senses, and any pattern of which row has which."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from amodal import methods
from amodal.core import Batch, Column, field_of
from amodal.train.step import gradients
from tests.methods.bench import SENSES, SMALL, batch, exact, method

ROWS = 8
CONTRASTIVE = [name for name in methods.names() if methods.family(name) == "contrastive"]


def senses_for(name: str, count: int) -> tuple[str, ...]:
    """So many senses, with those that the options of the bench name."""
    named = [s for s in SENSES if s in SMALL.get(name, {}).values()]
    chosen = (named + [s for s in SENSES if s not in named])[:count]
    return tuple(s for s in SENSES if s in chosen)


def patterns(count: int) -> dict[str, torch.Tensor]:
    """(rows, senses) bool."""
    every, none = torch.ones(ROWS, count, dtype=torch.bool), torch.zeros(ROWS, count, dtype=torch.bool)
    row, sense = torch.arange(ROWS)[:, None], torch.arange(count)
    found = {
        "all": every,
        "none": none,
        "one sense a row, no pair": row % count == sense,
        "one pair": none | (row < 1) & (sense < 2),
        "one sense with every other, no row complete": (sense == 0) | (sense == 1 + row % (count - 1)),
        "half the rows complete, half with one sense": (row < ROWS // 2) | (sense == 0),
        "two groups that share no sense": (row < ROWS // 2) == (sense < (count + 1) // 2),
        "one row complete, the others with all but one": (row == 0) | (row % count != sense),
    }
    generator = torch.Generator().manual_seed(count)
    return found | {f"random {i}": torch.rand(ROWS, count, generator=generator) < 0.3 + 0.2 * i for i in range(3)}


@cache
def whole(views, senses) -> Batch:
    return exact(
        batch(
            views if isinstance(views, tuple) and isinstance(views[0], str) else dict(views),
            ROWS,
            patchy=False,
            senses=senses,
        )
    )


def only(full: Batch, present: torch.Tensor, senses) -> Batch:
    column = {s: present[:, k] for k, s in enumerate(senses)}
    return replace(full, columns={s: c.at(column[field_of(s)][c.rows]) for s, c in full.columns.items()})


def shuffled(b: Batch, order: torch.Tensor) -> Batch:
    """Row i of the result is row order[i]."""
    place = torch.argsort(order)

    def moved(column: Column) -> Column:
        rows, at = place[column.rows].sort()
        return Column(column.values[at], rows)

    columns, labels = ({n: moved(c) for n, c in some.items()} for some in (b.columns, b.labels))
    return replace(b, columns=columns, labels=labels, keys=tuple(b.keys[i] for i in order), seeds=b.seeds[order])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_any_senses_of_any_rows(name, count):
    """Losses and gradients are finite, every tower is reached, rows may come in any order, and complete rows teach something."""
    senses = senses_for(name, count)
    m = exact(method(name, senses=senses))
    views = m.views if isinstance(m.views, tuple) else tuple((k, tuple(v)) for k, v in m.views.items())
    towers = {
        n for n, p in m.named_parameters() if ("trunks" in n or "tokenizers" in n) and p.requires_grad and p.numel()
    }
    for what, present in patterns(count).items():
        b = only(whole(views, senses), present, senses)
        found = []
        for rows in (b, shuffled(b, torch.randperm(ROWS, generator=torch.Generator().manual_seed(1)))):
            m.zero_grad()
            terms = gradients(m, rows)
            found.append(torch.stack([*terms.values()]))
            assert found[-1].isfinite().all(), what
            reached = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
            assert all(g.isfinite().all() for g in reached.values()), what
            assert towers <= reached.keys(), what
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9, msg=f"{what}: {found}")
        if what == "all":  # a method that keeps its encoder frozen still teaches its heads
            assert sum(float(g.abs().sum()) for n, g in reached.items() if n in towers or not towers) > 0

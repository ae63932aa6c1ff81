"""SORCE, Liu et al. 2025, arXiv:2505.24441, and the authors' evaluation: a picture has a vector of the
whole and one of each corner, and is as like a text as the best of these. Fine-tuned by contrast:
whole values in pairs, and lines that describe a part with the parts."""

import itertools

import pytest
import torch

from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import LearnedTemperature
from tests.methods import bench

pytestmark = pytest.mark.usefixtures("larger_pictures")


def info_nce(logits):
    """Both directions."""
    n = len(logits)
    total = sum(logits[i].logsumexp(0) + logits[:, i].logsumexp(0) for i in range(n))
    return (total / 2 - logits.diagonal().sum()) / n


class Sorce(LearnedTemperature):
    text_field, grid, weight = "words", 2, 1.0

    def losses(self, batch):
        columns = self.encoder(batch).columns
        line = f"{self.text_field}:2"
        whole = [s for s in columns if s != line]
        pairs = list(itertools.combinations(whole, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            loss = info_nce(x @ y.T * self.scale()) if len(x) > 1 else 0 * (x.sum() + y.sum())
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        others = [s for s in whole if s.split(":")[0] != self.text_field]
        if not self.weight:
            return terms
        context = self.encoder.encode(self.encoder.tokenize(batch))
        for field in others:
            rows = [r for r in columns[field].rows.tolist() if r in columns[line].rows.tolist()]
            if len(rows) < 2:
                loss = 0 * sum(z.values.sum() for z in columns.values())
            else:
                asked = unit(common(columns, line, field)[0])
                regions = [self.regions(context[field], field, row) for row in rows]
                scores = [torch.stack([(r @ q).max() for r in regions]) for q in asked]
                loss = info_nce(torch.stack(scores) * self.scale())
            terms[f"region/{field}"] = self.weight * loss / len(others)
        return terms

    def regions(self, tokens, field, row):
        """The whole, and the mean of each cell of a grid between the outermost tokens."""
        at = (tokens.row == row).nonzero().flatten().tolist()
        position = tokens.position[at].tolist()
        low, high = ([f(axis) for axis in zip(*position)] for f in (min, max))
        cells = {}
        for i, place in zip(at, position):
            share = [(p - a) / (b - a) if b > a else 0 for p, a, b in zip(place, low, high)]
            cell = tuple(min(int(s * self.grid), self.grid - 1) for s in share)
            cells.setdefault(cell, []).append(tokens.x[i])
        means = [torch.stack(x).mean(0) for x in cells.values()] if self.grid > 1 else []
        means = [tokens.x[at].mean(0), *means]
        return unit(torch.stack(means) @ self.encoder.heads[field].weight.T)


def hold(fields=("picture", "words", "signal"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("Sorce", (Sorce,), options)
    query = options.get("text_field", "words")
    views = {f: ("weak", "local") if f == query else ("weak",) for f in fields}
    golden("sorce", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_two_steps(grid):
    hold(grid=grid)


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 0.3},
        {"weight": 0.0},
        {"temperature": 0.5},
        {"max_scale": 5.0},
        {"text_field": "signal"},
        {"text_field": "picture", "grid": 3},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_of_more_fields_and_of_two():
    hold(("picture", "words", "signal", "facts"), rows=8)
    hold(("words", "facts"))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    """Of one row there is no picture, of two rows one pair."""
    hold(rows=rows)


@pytest.mark.parametrize("grid", [2, 3])
def test_what_is_indexed_is_what_was_trained(grid):
    """A list of unit vectors of each value, the whole first, and one vector of a query."""
    m = bench.exact(bench.method("sorce", width=8, grid=grid)).eval()
    b = bench.exact(bench.batch(("plain",)))
    context = m.encoder.encode(m.encoder.tokenize(b))
    lists, _ = m.encoder.multi_vector.of_records(m.encoder, b)
    for field in ("picture", "signal", "facts"):
        column = lists[field]
        for row, x in zip(column.rows.tolist(), column.values.split()):
            want = type("Sorce", (Sorce,), {"grid": grid})(m).regions(context[field], field, row)
            assert torch.allclose(x[0], want[0], rtol=1e-9)
            assert len(x) == len(want) and torch.cdist(want, x).amin(1).max() < 1e-7
    asked = m.encoder.multi_vector.of_query(m.encoder, b, "words")
    assert torch.allclose(asked.flat, unit(m.encoder(b)["words"].values), rtol=1e-9)


def test_with_the_whole_alone_there_is_one_vector_a_value():
    assert bench.method("sorce", grid=1).encoder.multi_vector is None


def test_defaults():
    """The whole and four corners, the authors' five prompts; the start of CLIP's temperature."""
    assert defaults("sorce") == {
        "text_field": "",
        "grid": 2,
        "weight": 1.0,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=128)

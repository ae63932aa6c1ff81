"""SCARF against algorithm 1 of Bahri et al. (2022), cell by cell and row by row."""

import copy
import math

import pytest
import torch
from torch import nn

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.nn.encoder import Encoder
from tests.golden import naive
from tests.golden.harness import defaults

ROWS = [
    {"age": 3.0, "size": 1.5, "colour": "red", "shape": "round"},
    {"age": 4.5, "size": None, "colour": "blue", "shape": "flat"},
    {"age": -1.0, "size": 0.5, "colour": None, "shape": None},
    {"age": 2.0, "size": 2.5, "colour": "red", "shape": "flat"},
    {"age": 7.0, "size": 9.0, "colour": "green", "shape": "round"},
]
PRESENT = [0, 1, 3, 4, 5]  # row 2 of six has no table
CORRUPTION, TEMPERATURE = 0.6, 0.7


def table():
    return modalities.kind("table").infer(ROWS)


def rows_of(modality, seed=0):
    values = modality.collate([modality.decode(r) for r in ROWS]).double()
    return Batch.of(6, {"facts": Column(values, torch.tensor(PRESENT))}, salt=seed)


def page(**options):
    torch.manual_seed(0)
    encoder = Encoder({"facts": table()}, size="nano")
    small = {"corruption": CORRUPTION, "temperature": TEMPERATURE, "width": 5, "hidden": 7}
    return methods.build("scarf", encoder, **(small | options)).double()


class Naive(nn.Module):
    """Algorithm 1. corpus: the training rows, whose columns are the marginals."""

    def __init__(self, encoder, head, corpus, limit=4096):
        super().__init__()
        self.encoder = encoder
        self.w1, self.b1, self.w2, self.b2 = (nn.Parameter(p.detach().clone()) for p in head)
        self.columns = []
        for j in range(corpus.shape[1]):
            column = sorted(v for v in corpus[:, j].tolist() if not math.isnan(v))
            if len(column) > limit:
                column = [column[int((k + 0.5) * len(column) / limit)] for k in range(limit)]
            self.columns.append(column)

    def corrupted(self, x, seeds):
        out = x.clone()
        for i, row in enumerate(x.tolist()):
            cells = [j for j, v in enumerate(row) if not math.isnan(v)]
            seed = int(seeds[PRESENT[i]])
            lot = {j: naive.uniform(seed, naive.code("facts"), 0, j) for j in cells}
            for j in sorted(cells, key=lot.get)[: math.floor(CORRUPTION * len(cells) + 1e-9)]:
                u = naive.uniform(seed, naive.code("facts"), 1, j)
                if self.columns[j]:
                    out[i, j] = self.columns[j][int(u * len(self.columns[j]))]
        return out

    def g(self, h):
        return (h @ self.w1.T + self.b1).clamp(min=0) @ self.w2.T + self.b2

    def f(self, b, values):
        column = Column(values, b["facts"].rows)
        encoded = self.encoder.features(Batch(b.size, {"facts": column}, b.keys, b.seeds))
        return encoded["facts"].values

    def terms(self, b):
        x = b["facts"].values
        z = self.g(self.f(b, x))
        z_tilde = self.g(self.f(b, self.corrupted(x, b.seeds)))
        losses = []
        for i in range(len(z)):
            s = [naive.cosine(z[i], other) / TEMPERATURE for other in z_tilde]
            losses.append(-torch.log(s[i].exp() / sum(v.exp() for v in s)))
        return {"info_nce/facts:1~facts:2": sum(losses) / len(losses)}


def corpus(modality, count):
    g = torch.Generator().manual_seed(1)
    x = torch.stack(
        [
            torch.randn(count, generator=g, dtype=torch.float64),
            torch.randn(count, generator=g, dtype=torch.float64),
            torch.randint(3, (count,), generator=g).double(),
            torch.randint(2, (count,), generator=g).double(),
        ],
        1,
    )
    x[0, 0] = x[3, 2] = torch.nan
    return x


@pytest.mark.parametrize("limit", [4096, 7])
def test_two_steps_are_those_of_the_paper(limit):
    m = page(quantiles=limit)
    modality, encoder = m.encoder.fields["facts"], copy.deepcopy(m.encoder)
    training = corpus(modality, 11)
    parts = [training[:4], training[4:]]
    m.fit_statistics(Batch.of(len(p), {"facts": Column(p, torch.arange(len(p)))}) for p in parts)
    other = Naive(encoder, list(m.heads["facts"].parameters()), training, limit)
    seeds = iter([0, 0, 1, 1])
    naive.assert_equal_steps(
        m,
        lambda: m.losses(m.features(rows_of(modality, next(seeds)))),
        other,
        lambda: other.terms(rows_of(modality, next(seeds))),
        {
            "encoder.": "encoder.",
            "heads.facts.0.weight": "w1",
            "heads.facts.0.bias": "b1",
            "heads.facts.2.weight": "w2",
            "heads.facts.2.bias": "b2",
        },
    )
    if limit == 7:
        expected = torch.tensor(other.columns[1], dtype=torch.float64)
        torch.testing.assert_close(m.marginals["facts"].value[:, 1], expected)


def test_the_first_view_is_the_row_itself_and_missing_cells_stay_missing():
    m = page(corruption=1.0)
    b = rows_of(m.encoder.fields["facts"])
    m.fit_statistics([Batch.of(1, {"facts": Column(torch.full((1, 4), 1.0), torch.tensor([0]))})])
    x = b["facts"].values
    torch.testing.assert_close(
        m.features(b)["facts:1"].values, m.encoder.features(b)["facts"].values
    )
    corrupted = m.corrupt("facts", b["facts"], b.seeds)
    assert torch.equal(corrupted.isnan(), x.isnan()) and (corrupted[~x.isnan()] == 1).all()


def test_shares_follow_the_marginal():
    """Of 20,000 draws of a column that is 1 in one record of four, a quarter is 1."""
    m = page(corruption=1.0)
    column = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    m.fit_statistics([Batch.of(4, {"facts": Column(column, torch.arange(4))})])
    n = 5000
    b = Batch.of(n, {"facts": Column(torch.full((n, 4), 5.0), torch.arange(n))})
    assert abs(m.corrupt("facts", b["facts"], b.seeds).mean() - 0.25) < 0.01


def test_before_the_marginals_are_known_rows_stay():
    m = page()
    b = rows_of(m.encoder.fields["facts"])
    torch.testing.assert_close(
        m.corrupt("facts", b["facts"], b.seeds), b["facts"].values, equal_nan=True
    )


def test_other_fields_are_frozen_and_said():
    encoder = Encoder({"facts": table(), "words": modalities.make("text")}, size="nano")
    with pytest.warns(UserWarning, match="vectors of words stay"):
        m = methods.build("scarf", encoder)
    learning = {n for n, p in m.named_parameters() if p.requires_grad}
    assert learning and not any("words" in n for n in learning)
    modality = {"facts": Column(torch.ones(1, 4), torch.tensor([0]))}
    assert set(m.features(Batch.of(1, modality))) == {"facts:1", "facts:2"}


def test_mistakes_are_sentences():
    with pytest.raises(AmodalError, match="scarf learns from tables, and there is only words"):
        methods.build("scarf", Encoder({"words": modalities.make("text")}, size="nano"))
    for bad in ({"corruption": 0.0}, {"corruption": 1.5}, {"quantiles": 0}):
        with pytest.raises(AmodalError, match=f"scarf.{next(iter(bad))}"):
            page(**bad)


def test_what_was_known_before_is_forgotten():
    m, columns = page(quantiles=7), torch.arange(12.0).view(3, 4)
    for x in (columns, columns[:1] + 5):
        m.fit_statistics([Batch.of(len(x), {"facts": Column(x, torch.arange(len(x)))})])
    assert m.marginals["facts"].count.tolist() == [1] * 4
    assert torch.equal(m.marginals["facts"].value[0], columns[0].double() + 5)
    assert not m.marginals["facts"].value[1:].any()


def test_a_share_that_is_a_whole_number_of_cells_is_that_many():
    """29 of 100, though .29 * 100 is below 29 in floating point."""
    wide = modalities.kind("table").infer(
        [{f"c{i}": float(i + j) for i in range(100)} for j in (0, 1)]
    )
    encoder = Encoder({"facts": wide}, size="nano")
    m = methods.build("scarf", encoder, corruption=0.29, quantiles=3)
    m.fit_statistics(
        [Batch.of(1, {"facts": Column(torch.full((1, 100), -5.0), torch.tensor([0]))})]
    )
    b = Batch.of(2, {"facts": Column(torch.zeros(2, 100), torch.arange(2))})
    assert (m.corrupt("facts", b["facts"], b.seeds) == -5).sum(1).tolist() == [29, 29]


def test_heads_are_as_wide_as_they_are_said_to_be():
    shapes = [tuple(p.shape) for p in page().heads["facts"].parameters()]
    assert shapes == [(7, page().encoder.width), (7,), (5, 7), (5,)]


def test_defaults_are_those_of_the_paper():
    assert defaults("scarf") == {
        "corruption": 0.6,
        "temperature": 1.0,
        "width": 256,
        "hidden": 256,
        "quantiles": 4096,
    }
    m = methods.build("scarf", Encoder({"facts": table()}, size="nano"))
    assert m.corruption == 0.6 and m.views == ("plain",)
    first, _, last = m.heads["facts"]
    assert (first.out_features, last.in_features, last.out_features) == (256, 256, 256)
    r = methods.paper_recipe("scarf")
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 0, (0.9, 0.999))
    assert (r.schedule, r.warmup_steps, r.batch_size, r.epochs) == ("constant", 0, 128, 1000)

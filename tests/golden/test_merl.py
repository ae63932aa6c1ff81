"""MERL, Liu et al. 2024, arXiv:2403.06659: cross-modal and uni-modal alignment, section 3."""

import itertools

import pytest
import torch

from amodal.methods.contrastive.merl import PAPER_RECIPE
from tests.golden import naive
from tests.golden.harness import Reference, common, defaults, golden, unit


def symmetric_nce(x, y, temperature):
    """Both cross-entropies over all rows, and their mean. The authors add them up."""
    logits, n, total = unit(x) @ unit(y).T / temperature, len(x), 0
    if not n:
        return 0 * (x.sum() + y.sum())
    for i in range(n):
        total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
    return total / n / 2


class Merl(Reference):
    weight, dropout, temperature, signals = 1.0, 0.1, 0.07, ("signal",)
    width, hidden = 10, 12

    def check_start(self):
        assert self.min_batch_size == 2
        latents = {n.split(".")[1] for n in self.w if n.startswith("latent_maps.")}
        assert latents == set(self.signals)
        for s in self.signals:  # two linear maps without a bias
            names = [n for n in self.w if n.startswith(f"latent_maps.{s}.")]
            assert names == [f"latent_maps.{s}.{i}.weight" for i in (0, 1)]
            assert all(self.w[n].shape == (self.width, self.encoder.width) for n in names)
        for f in self.encoder.fields:
            assert self.encoder.heads[f][0].out_features == self.hidden
            assert self.encoder.heads[f][2].out_features == self.width
            assert type(self.encoder.pools[f]).__name__ == "AttentionPool"

    def losses(self, batch):
        z = {f: self.head(f, c) for f, c in self.encoder.features(batch).columns.items()}
        pairs, terms = list(itertools.combinations(z, 2)), {}
        for a, b in pairs:
            x, y = common(z, a, b)
            terms[f"info_nce/{a}~{b}"] = symmetric_nce(x, y, self.temperature) / len(pairs)
        if self.weight:
            tokens = self.encoder.encode(self.encoder.tokenize(batch))
            for s in self.signals:
                one, two = (self.latent(s, i, tokens[s], batch) for i in (0, 1))
                loss = symmetric_nce(one, two, self.temperature)
                terms[f"latent/{s}"] = self.weight * loss / len(self.signals)
        return terms

    def head(self, field, column):
        """The authors' projector of text: two layers, GELU between them."""
        first, _, second = self.encoder.heads[field]
        x = torch.nn.functional.linear(column.values, first.weight, first.bias)
        x = x * (1 + torch.erf(x / 2**0.5)) / 2
        return type(column)(x @ second.weight.T, column.rows)

    def latent(self, source, number, tokens, batch):
        """A linear map of the mean token, and dropout of its own."""
        vectors = []
        for row in batch.columns[source].rows.tolist():
            x = tokens.x[tokens.row == row].mean(0)
            x = self.w[f"latent_maps.{source}.{number}.weight"] @ x
            code = naive.code(f"latent {source} {number}")
            seed = int(batch.seeds[row])
            dropped = [naive.uniform(seed, code, i) < self.dropout for i in range(len(x))]
            vectors.append(x.masked_fill(torch.tensor(dropped), 0.0) / (1 - self.dropout))
        return (
            torch.stack(vectors)
            if vectors
            else torch.zeros(0, len(self.w[f"latent_maps.{source}.0.weight"])).double()
            + 0 * tokens.x.sum()
        )


def hold(fields=("signal", "words"), signals=("signal",), rows=6, **options):
    known = {k: v for k, v in options.items() if hasattr(Merl, k)}
    reference = type("Merl", (Merl,), known | {"signals": signals})
    golden(
        "merl",
        reference,
        views=("plain",),
        fields=fields,
        rows=rows,
        **({"width": 10, "hidden": 12} | options),
    )


def test_two_steps():
    hold()


def test_two_steps_with_two_kinds_of_signals():
    hold(("signal", "words", "facts"), ("signal", "facts"))


@pytest.mark.parametrize(
    "options", [{"weight": 0.3}, {"weight": 0.0}, {"dropout": 0.4, "temperature": 0.5}]
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_one_pair_and_none():
    for rows in (1, 2):
        hold(rows=rows)


def test_defaults():
    """0.07, 0.1 and 256: the authors' programs."""
    assert defaults("merl") == {
        "weight": 1.0,
        "dropout": 0.1,
        "width": 256,
        "hidden": 256,
        "temperature": 0.07,
    }
    hold(width=256, hidden=256)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 1e-8, (0.9, 0.999))
    assert (r.schedule, r.clip, r.batch_size, r.epochs) == ("cosine", 0.0, 1024, 20.0)

"""The total written out, what learns, what a hidden field is told by, and rows or batches that lack
a field."""

import pytest
import torch
import torch.nn.functional as F

from amodal import methods
from amodal.core import AmodalError
from amodal.masking.modality_dropout import drop_modalities
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, fields

TWO = ("picture", "words")


def made(sources=TWO, **options):
    torch.manual_seed(0)
    encoder = Encoder(fields(sources), size="nano")
    options = {"label": "kind", "classes": 3, "prompts": 2, "hidden": 8} | options
    return exact(methods.build("missing_joint_embedding", encoder, **options))


def rows(fields=TWO, size=7, **more):
    return exact(batch(("weak",), size, sources=fields, **({"patchy": False} | more)))


def slow_vicreg(guess, true):
    n, width = guess.shape
    total = 25 * sum(((g - t) ** 2).mean() for g, t in zip(guess, true)) / n
    for x in (guess, true):
        for j in range(width):
            total = total + 25 / 2 * F.relu(1 - (x[:, j].var() + 1e-4).sqrt()) / width
        centred = x - x.mean(0)
        cov = centred.T @ centred / (n - 1)
        total = total + ((cov**2).sum() - cov.diagonal().square().sum()) / width
    return total


def test_the_total_is_the_published_one():
    m, one = made(weight=0.7), rows()
    z = m.encoder.features(one)
    states = m.prompts(m.encoder, m.encoder.tokenize(one))[1]
    terms, guess = m.losses(m.features(one)), {}
    for a, b in (TWO, TWO[::-1]):
        guess[b] = m.fusion.predictors[f"{a}>{b}"](states[a].values)
        want = 0.7 / 2 * slow_vicreg(guess[b], z[b].values)
        torch.testing.assert_close(terms[f"vicreg/{a}>{b}"], want)
    present = drop_modalities({s: torch.ones(7, dtype=torch.bool) for s in TWO}, one.seeds, 0.3)
    assert not all(k.all() for k in present.values())
    filled = [torch.where(present[s][:, None], z[s].values, guess[s]) for s in TWO]
    known, y = one.labels["kind"].rows, one.labels["kind"].values
    torch.testing.assert_close(
        terms["supervised"], F.cross_entropy(m.fusion.head(torch.cat(filled, 1))[known], y)
    )
    assert len(terms) == 3


def test_only_biases_of_the_encoder_learn():
    learning = {n for n, p in made().encoder.named_parameters() if p.requires_grad}
    assert learning and all(n.endswith("bias") for n in learning)
    assert not any(p.requires_grad for p in made(tune="none").encoder.parameters())
    assert all(p.requires_grad for p in made(tune="all").encoder.parameters())


def test_a_batch_without_a_field_is_classified_by_its_prediction():
    m, one = made().eval(), rows()
    alone = m.predict(one.only("words"))
    z = m.encoder.features(one)["words"].values
    states = m.prompts(m.encoder, m.encoder.tokenize(one.only("words")))[1]["words"].values
    want = m.fusion.head(torch.cat([m.fusion.predictors["words>picture"](states), z], 1))
    torch.testing.assert_close(alone.values, want)
    assert not alone.values.requires_grad
    both = m.predict(one)
    torch.testing.assert_close(
        both.values, m.fusion.head(torch.cat([m.encoder.features(one)["picture"].values, z], 1))
    )


@pytest.mark.parametrize(
    "fields", [("picture", "words", "signal"), ("picture", "words", "signal", "facts")]
)
def test_more_fields_and_any_of_them_missing(fields):
    m, patchy = made(fields), rows(fields, patchy=True)
    terms = m.losses(m.features(patchy))
    assert len(terms) == len(fields) * (len(fields) - 1) + 1 and all(
        t.isfinite() for t in terms.values()
    )
    predicted = m.predict(patchy)
    assert torch.equal(predicted.rows, patchy.present().any(1).nonzero().squeeze(1))
    lonely = rows(fields, patchy=True, absent=fields[1:])
    assert all(t.isfinite() for t in m.losses(m.features(lonely)).values())


def test_bad_options_say_what_is_meant():
    with pytest.raises(AmodalError, match="give label"):
        made(label="")
    with pytest.raises(AmodalError, match="Did you mean bias"):
        made(tune="biass")
    with pytest.raises(AmodalError, match="joint"):
        methods.build(
            "missing_joint_embedding",
            Encoder(fields(TWO), size="nano", trunk="joint"),
            label="kind",
            classes=3,
        )

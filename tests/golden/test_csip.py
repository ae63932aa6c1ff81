"""CSIP, Corley and Najafirad 2022, arXiv:2202.13251, section 3, and the authors' loss: rows of
pictures are classified by the surfaces that belong to them."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.methods.contrastive.csip import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods.bench import method


def cross_entropy(logits):
    """Row i's class is i."""
    n = len(logits)
    return sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n


class Csip(Reference):
    """With more than one other field, the mean over them."""

    temperature, width, symmetric, image = 0.07, 8, False, "picture"

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        start = self.w["learned.log"].detach()
        assert torch.isclose(start, -torch.tensor(self.temperature).double().log(), rtol=1e-6)

    def losses(self, batch):
        columns = self.encoder(batch).columns
        others = [s for s in columns if s != self.image]
        terms = {}
        for other in others:
            a, b = (unit(z) for z in common(columns, self.image, other))
            if len(a) < 2:
                loss = 0 * (a.sum() + b.sum())
            else:
                logits = a @ b.T * self.w["learned.log"].exp()
                loss = cross_entropy(logits)
                if self.symmetric:
                    loss = (loss + cross_entropy(logits.T)) / 2
            terms[f"info_nce/{self.image}>{other}"] = loss / len(others)
        return terms


def steps(fields=("picture", "facts"), rows=6, **options):
    reference = type("Csip", (Csip,), options)
    options = {"width": 8} | options
    golden("csip", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "facts"), ("picture", "words", "facts")])
@pytest.mark.parametrize("symmetric", [False, True])
def test_two_steps(fields, symmetric):
    steps(fields, symmetric=symmetric)


@pytest.mark.parametrize("temperature", [2.0, 0.3, 0.015])
def test_two_steps_at_another_temperature(temperature):
    steps(temperature=temperature)


def test_two_steps_beyond_clip_s_bound():
    """The authors' parameter has no bound."""
    steps(temperature=0.004)


def test_the_picture_is_not_the_first_field_but_one_that_is_named():
    steps(("picture", "words", "facts"), image="facts")
    steps(("signal", "picture"))
    with pytest.raises(AmodalError, match="Did you mean picture"):
        method("csip", image="pictur")


def test_one_pair_and_none():
    for rows in (1, 2):
        steps(rows=rows)


def test_defaults():
    """256 and 0.07: the authors' classes; their loss has one direction."""
    assert defaults("csip") == {
        "image": "",
        "symmetric": False,
        "width": 256,
        "temperature": 0.07,
    }
    golden(
        "csip", type("Csip", (Csip,), {"width": 256}), views=("weak",), fields=("picture", "facts")
    )
    with pytest.raises(AmodalError, match="compares fields"):
        method("csip", sources=("picture",))


def test_the_recipe_is_the_authors():
    """Their file of settings, and the defaults of torch's AdamW where it has none."""
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 0.01, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("constant", 0.0, 0.0)
    assert (r.batch_size, r.resolution, r.epochs) == (64, 512, 100.0)

"""The parts that claims share."""

import numpy as np
import torch
from amodal_claims import _arms, decur, presence

from amodal import data, methods
from amodal.core import Column
from amodal.data import Dataset


def test_the_search_takes_the_rate_that_scores_best():
    globe = data.open("globe").select(["relief"])
    tried = []

    def score(method):
        tried.append(method)
        return -len(tried)  # the first is best

    budget = _arms.Budget(steps=2, batch=8, rates=(1e-3, 1e-2, 1e-1))
    found = _arms.best(
        globe, globe.split("train")[:16], lambda e: methods.build("simclr", e), budget, 0, score
    )
    assert found is tried[0] and len(tried) == 3 and not found.training
    start = _arms.untrained(globe, lambda e: methods.build("simclr", e), budget, 0)
    moved = [(a - b).abs().max() for a, b in zip(found.parameters(), start.parameters())]
    assert 0 < max(moved) < 0.01  # from the same start, two steps of 1e-3


def test_a_probe_reads_classes_and_numbers():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=g)
    classes, numbers = np.where(x[:, 0] > 0, "a", "b").astype(object), x[:, 1].double().numpy()
    train, test = Column(x[:100], torch.arange(100)), Column(x[100:], torch.arange(100))
    assert _arms.probe(train, classes[:100], test, classes[100:]) > 0.9
    assert _arms.probe(train, numbers[:100], test, numbers[100:]) > 0.99


def test_hidden_values_are_a_function_of_the_seed_and_nested():
    fields = ("colour", "relief", "climate")
    globe = data.open("globe").select(fields)

    def left(share, seed):
        hidden = Dataset(
            presence.Hiding(globe.reader, fields, share, seed), globe.schema, globe.path
        )
        return np.stack([hidden.present(s) for s in fields])

    there = np.stack([globe.present(s) for s in fields])
    some, few = left(0.3, 0), left(0.9, 0)
    assert (left(0.3, 0) == some).all() and (left(0.3, 1) != some).any()
    assert (few <= some).all() and (some <= there).all()
    assert abs(some.sum() / there.sum() - 0.7) < 0.02 and abs(few.sum() / there.sum() - 0.1) < 0.02


def test_the_control_has_its_factors():
    digits = data.open("digits").subset(range(0, 2000, 50))
    made, labels = decur.factors(0, digits)
    painted, turned = made.value(7, "painted"), made.value(7, "turned")
    assert painted.shape == (3, 20, 20) and turned.shape == (1, 20, 20)
    assert set(labels["hue"]) <= set("01234") and set(labels["angle"]) <= set("01234")
    red = next(i for i in range(len(made)) if labels["hue"][i] == "0")
    assert made.value(red, "painted")[0].max() > 100 and made.value(red, "painted")[1:].max() == 0
    straight = next(i for i in range(len(made)) if labels["angle"][i] == "2")
    shape = made.value(straight, "turned")[0] > 128
    assert (
        shape
        == (made.value(straight, "painted").max(0) > made.value(straight, "painted").max() / 2)
    ).mean() > 0.95

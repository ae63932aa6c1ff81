"""Byte models against the published recursion, and what the difference of two of them picks."""

import math
from itertools import pairwise

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.curate.in_domain import END, SYMBOLS, ByteModel, in_domain

TEXTS = ["a cat", "a hat", "cats", "é", ""]


def witten_bell(texts, before, symbol):
    """By counting substrings anew at each step."""
    lower = 1 / SYMBOLS if not before else witten_bell(texts, before[1:], symbol)
    follow = []
    for text in texts:
        symbols = (*text.encode(), END)
        n = len(before)
        follow += [symbols[i + n] for i in range(len(symbols) - n) if symbols[i : i + n] == before]
    kinds = len(set(follow))
    return (follow.count(symbol) + kinds * lower) / (len(follow) + kinds) if follow else lower


@pytest.mark.parametrize("order", [0, 1, 3])
def test_chances_are_those_of_witten_and_bell_and_sum_to_one(order):
    model = ByteModel(TEXTS, order)
    for text in ["a cat", "tac", "é!", ""]:
        symbols, total = (*text.encode(), END), 0.0
        for i, symbol in enumerate(symbols):
            before = symbols[max(0, i - order) : i]
            expected = witten_bell(TEXTS, before, symbol)
            assert model.probability(before, symbol) == pytest.approx(expected)
            assert sum(model.probability(before, s) for s in range(SYMBOLS)) == pytest.approx(1)
            total -= math.log(expected)
        assert model.cross_entropy(text) == pytest.approx(total / len(symbols))


def test_captions_are_picked_out_of_code():
    captions = [
        f"A {c} {n} on a table."
        for c in ("red", "blue", "small")
        for n in ("apple", "boat", "dog", "cup")
    ]
    code = [f"for {a} in {b}: return {a} + {k}" for a, b in pairwise("xyzij") for k in range(3)]
    mixed = captions[6:] + code
    score = in_domain(mixed, captions[:6])
    assert set(np.argsort(score)[:6]) == set(range(6))
    own, usual = ByteModel(captions[:6]), ByteModel(code)
    scores = in_domain(mixed, captions[:6], general=code)
    np.testing.assert_allclose(
        scores, [own.cross_entropy(t) - usual.cross_entropy(t) for t in mixed]
    )
    assert in_domain([], captions).shape == (0,)


def test_errors():
    with pytest.raises(AmodalError, match="`like` is empty"):
        in_domain(["a"], [])
    with pytest.raises(AmodalError, match="at least 0"):
        in_domain(["a"], ["a"], order=-1)

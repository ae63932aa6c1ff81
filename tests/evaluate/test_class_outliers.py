"""Records whose label was exchanged are those that are named."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate.class_outliers import class_outliers
from amodal.inference.embed import Embedded

N = 90


def embedded(wrong=(), seed=0, fields=("a", "b")):
    """Three clouds, away from the origin together, with the labels of some moved on."""
    rng = np.random.default_rng(seed)
    own = np.arange(N) % 3
    centres = rng.normal(size=(3, 8))
    columns = {}
    for name in fields:
        x = 6.0 + centres[own] + 0.2 * rng.normal(size=(N, 8))
        columns[name] = Column(torch.tensor(x, dtype=torch.float32), torch.arange(N))
    labels = np.array([f"class {k}" for k in own], dtype=object)
    for row in wrong:
        labels[row] = f"class {(own[row] + 1) % 3}"
    labels[5] = None
    z = Embeddings(columns, N)
    amount = np.arange(N, dtype=np.float64)
    return Embedded([f"r{i}" for i in range(N)], z, z, {"kind": labels, "amount": amount})


def test_exchanged_labels_are_named_with_the_class_they_belong_to():
    found = class_outliers(embedded(wrong=(7, 20, 60)), "kind")
    assert {o.key for o in found} == {"r7", "r20", "r60"}
    assert {(o.own, o.nearest) for o in found} == {
        ("class 2", "class 1"),
        ("class 0", "class 2"),
        ("class 1", "class 0"),
    }
    assert all(o.score > 0.3 for o in found)


def test_the_score_is_by_cosines_to_the_others_of_the_class():
    z = embedded(wrong=(7,), fields=("a",))
    [first, *_] = class_outliers(z, "kind")
    x = z.features["a"].values
    labels = z.labels["kind"]
    known = [i for i in range(N) if labels[i] is not None]
    x = x - x[known].mean(0)
    x = x / x.norm(dim=1, keepdim=True)

    def unlike(i):
        others = [j for j in known if j != i and labels[j] == labels[i]]
        return 1 - float(torch.stack([x[i] @ x[j] for j in others]).mean())

    mine = [unlike(i) for i in known if labels[i] == labels[7]]
    assert first.key == "r7"
    assert first.score == pytest.approx(unlike(7) - np.mean(mine), abs=1e-4)


def test_what_cannot_be_asked_is_said():
    z = embedded()
    with pytest.raises(AmodalError, match="'amount' is a number"):
        class_outliers(z, "amount")
    with pytest.raises(AmodalError, match="no label 'sort'"):
        class_outliers(z, "sort")
    z.labels["kind"][:] = "one"
    with pytest.raises(AmodalError, match="no two such classes"):
        class_outliers(z, "kind")

"""The scores of records that do not fit, against loops, and that they find what was exchanged."""

import itertools

import pytest
import torch
from torch.nn.functional import cosine_similarity as cosine

from amodal.core import Column, Embeddings
from amodal.diagnose.disagreement import disagreement, unlike_class


def patchy(size=9, width=4):
    torch.manual_seed(0)
    rows = {"a": [0, 1, 2, 4, 8], "b": [0, 2, 3, 4], "c": [2, 5, 8]}
    columns = {s: Column(torch.randn(len(r), width), torch.tensor(r)) for s, r in rows.items()}
    return Embeddings(columns, size)


def test_disagreement_is_over_the_pairs_that_a_row_has():
    z = patchy()
    found = disagreement(z)
    assert found.rows.tolist() == [0, 2, 4, 8]
    for row, score in zip(found.rows.tolist(), found.values.tolist()):
        own = [
            z[s].values[z[s].rows.tolist().index(row)]
            for s in z.sources
            if row in z[s].rows.tolist()
        ]
        each = [float(cosine(x, y, dim=0)) for x, y in itertools.combinations(own, 2)]
        assert score == pytest.approx(1 - sum(each) / len(each), abs=1e-6)
    alone = Embeddings({"a": z["a"]}, z.size)
    assert len(disagreement(alone)) == 0


def test_unlike_class_leaves_the_row_itself_out():
    torch.manual_seed(1)
    z, classes = torch.randn(7, 3), torch.tensor([4, 4, 9, 4, 9, 2, 4])
    for i, score in enumerate(unlike_class(z, classes).tolist()):
        others = [
            float(cosine(z[i], z[j], dim=0))
            for j in range(7)
            if j != i and classes[j] == classes[i]
        ]
        assert score == pytest.approx(1 - sum(others) / max(len(others), 1), abs=1e-6)
    with pytest.raises(ValueError, match="one|classes"):
        unlike_class(z, classes[:3])


def test_what_was_exchanged_or_mislabelled_stands_out():
    torch.manual_seed(2)
    classes = torch.arange(40) % 4
    meaning = torch.eye(8)[classes] + 0.1 * torch.randn(40, 8)
    other = meaning.clone()
    other[[3, 20]] = meaning[[20, 3]]
    rows = torch.arange(40)
    score = disagreement(
        Embeddings({"a": Column(meaning, rows), "b": Column(other, rows)}, 40)
    ).values
    assert sorted(score.topk(2).indices.tolist()) == [3, 20]
    wrong = classes.clone()
    wrong[7] = 0
    assert int(unlike_class(meaning, wrong).argmax()) == 7

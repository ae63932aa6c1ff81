"""Each field against the tuple of all others: by volume, and by the mean cosine."""

import dataclasses

import numpy as np
import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.evaluate import NotApplicable
from amodal.evaluate.protocols.tuple_retrieval import score_matrix, tuple_retrieval
from amodal.inference.embed import Embedded

N = 40


def embedded(noise, fields="abc", flip=False, size=N):
    g = torch.Generator().manual_seed(0)
    common, columns = torch.randn(size, 16, generator=g), {}
    for name in fields:
        x = common + noise * torch.randn(size, 16, generator=g)
        columns[name] = Column(-x if flip and name != "a" else x, torch.arange(size))
    z = Embeddings(columns, size)
    return Embedded([str(i) for i in range(size)], z, z, abs_cosine=flip)


def value(result, source, metric="recall@1"):
    return next(r["value"] for r in result.rows if (r["source"], r["metric"]) == (source, metric))


def test_a_field_finds_the_rest_of_its_record_and_the_rest_finds_it():
    result = tuple_retrieval(None, embedded(0.1))
    pairs = {(r["source"], r["target"]) for r in result.rows}
    assert ("a", "b + c") in pairs and ("b + c", "a") in pairs and len(pairs) == 6
    assert value(result, "a") == value(result, "b + c") == 1.0
    assert value(result, "a", "median rank") == 1
    row = next(r for r in result.rows if r["metric"] == "recall@5")
    assert row["chance"] == pytest.approx(5 / N) and row["n"] == N


def test_volumes_do_not_mind_signs_and_cosines_do():
    turned = embedded(0.1, flip=True)
    assert value(tuple_retrieval(None, turned), "a") == 1.0
    signed = dataclasses.replace(turned, abs_cosine=False)
    assert value(tuple_retrieval(None, signed), "a") == 0.0


def test_ranks_of_both_ways_by_hand():
    z = embedded(2.0)
    a, b, c = (z.aligned[s].values.double() for s in "abc")
    a, b, c = (x / x.norm(dim=1, keepdim=True) for x in (a, b, c))
    scores = torch.stack(
        [torch.stack([(a[i] @ b[j] + a[i] @ c[j]) / 2 for j in range(N)]) for i in range(N)]
    )
    result = tuple_retrieval(None, z)
    for source, table in (("a", scores), ("b + c", scores.T)):
        rank = [1 + int((table[i] > table[i, i]).sum()) for i in range(N)]
        assert value(result, source, "recall@5") == pytest.approx(np.mean([r <= 5 for r in rank]))
        assert value(result, source, "MRR") == pytest.approx(np.mean([1 / r for r in rank]))
    volume = score_matrix(a, [b, c], True)[2, 3]
    gram = torch.stack([a[2], b[3], c[3]])
    assert float(volume) == pytest.approx(-float(torch.linalg.det(gram @ gram.T).sqrt()), abs=1e-5)


def test_two_fields_are_no_tuple_and_few_records_are_not_ranked():
    with pytest.raises(NotApplicable, match="two fields beside"):
        tuple_retrieval(None, embedded(0.1, fields="ab"))
    with pytest.raises(NotApplicable, match="are needed"):
        tuple_retrieval(None, embedded(0.1, size=5))
    assert tuple_retrieval(None, embedded(0.1), gallery=20).rows[0]["n"] == 20

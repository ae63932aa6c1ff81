"""Latent Dirichlet allocation, against scikit-learn's and against the equations written out."""

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.decomposition import LatentDirichletAllocation

from amodal.core import name_code
from amodal.stats.topics import Topics

SEA, FARM = "boat wave fish sail harbour".split(), "cow barn hay tractor field".split()


def texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(SEA if i % 2 else FARM, 6)) for i in range(n)]


def table(model, documents):
    counts = model.count(documents)
    dense = np.zeros((counts.texts, len(model.vocabulary)))
    dense[counts.text.numpy(), counts.word.numpy()] = counts.count.numpy()
    return dense


def test_words_are_counted_without_function_words_and_case():
    model = Topics(2, buckets=997)
    dense = table(model, ["The boat and the BOAT, a barn 42", "of the"])
    assert dense[0].sum() == 3 and dense[0, name_code("boat") % 997] == 2 and not dense[1].any()


def test_mixtures_are_scikit_learns():
    model = Topics(3, buckets=64, inner=300).double()
    documents = texts(10) + ["boat barn barn", ""]
    peer = LatentDirichletAllocation(3, max_doc_update_iter=3000, mean_change_tol=1e-12)
    dense = table(model, documents)
    peer.fit(dense[:2])
    peer.components_ = model.weight.numpy()
    peer.exp_dirichlet_component_ = np.exp(
        digamma(peer.components_) - digamma(peer.components_.sum(1, keepdims=True))
    )
    np.testing.assert_allclose(
        model(model.count(documents)).numpy(), peer.transform(dense), atol=1e-6
    )


def test_a_step_of_the_fit_is_the_published_one():
    model = Topics(2, least=1, most=1.0, buckets=32, steps=1, inner=5).double()
    start, documents = model.weight.numpy().copy(), texts(6)
    model.fit(documents)
    assert 5 < model.vocabulary.sum() < 32
    beta = np.exp(
        digamma(start) - digamma(start[:, model.vocabulary.numpy()].sum(1, keepdims=True))
    )
    expected = np.full_like(start, 0.5)
    for row in table(model, documents):
        gamma = np.ones(2)
        for last in range(6):
            theta = np.exp(digamma(gamma) - digamma(gamma.sum()))
            phi = {w: theta * beta[:, w] / (theta @ beta[:, w]) for w in np.flatnonzero(row)}
            if last == 5:
                for w, p in phi.items():
                    expected[:, w] += row[w] * p
            gamma = 0.5 + sum(row[w] * p for w, p in phi.items())
    np.testing.assert_allclose(model.weight.numpy(), expected, rtol=1e-9)


def test_two_kinds_of_text_become_two_topics():
    model = Topics(2, least=2, most=0.9).fit(texts())
    mixed = model(model.count([*texts(40, seed=9), "unheard words alone"]))
    assert torch.allclose(mixed.sum(1), torch.ones(41))
    side = mixed[:40].argmax(1)
    assert (
        (side[::2] == side[0]).all()
        and (side[1::2] == 1 - side[0]).all()
        and mixed[:40].max(1).values.min() > 0.8
    )
    assert torch.allclose(mixed[40], torch.tensor([0.5, 0.5])), (
        "a text of unknown words is left at the prior"
    )


def test_rare_and_common_words_are_left_out():
    model = Topics(2, least=3, most=0.5, buckets=8191).fit(
        [f"common thing{'x' * (i % 2)} only{'z' * i}" for i in range(8)]
    )
    words = [
        w
        for w in ("common", "thing", "thingx", "only", "onlyz")
        if model.vocabulary[name_code(w) % 8191]
    ]
    assert words == ["thing", "thingx"] and int(model.vocabulary.sum()) == 2
    with pytest.raises(ValueError, match="no word is in at least 20"):
        Topics(2).fit(texts(5))
    with pytest.raises(ValueError, match="at least 2"):
        Topics(1)

"""The parts of dreamlip that its loss shows only in sum: groups of patches, sentences drawn twice."""

import torch

from amodal.core import Column, Ragged
from amodal.methods.contrastive.dreamlip import first_occurrences
from amodal.methods.shared.regions import alone, regions
from amodal.objectives.grouping import group_patches
from tests.methods.bench import batch, exact, method


def lists(*values):
    flat = torch.tensor([i for v in values for i in v])
    return Column(Ragged(flat, torch.tensor([len(v) for v in values])), torch.arange(len(values)))


def test_a_sentence_that_was_drawn_twice_is_marked_the_first_time():
    lines = [
        lists([1, 2], [5], [7]),
        lists([2, 1], [5], [7, 7]),
        lists([1, 2], [5], [7]),
        lists([1, 2], [6], [8]),
    ]
    assert first_occurrences(lines).tolist() == [
        [True, True, False, False],  # another order is another sentence
        [True, False, False, True],
        [True, True, False, True],
    ]


def test_features_are_sentences_and_the_groups_that_they_describe():
    m = exact(method("dreamlip", sources=("picture", "words"), width=8, captions=2, threshold=0.5))
    rows = exact(batch(m.views, sources=("picture", "words"), size=6))
    features = m.features(rows)
    texts, groups = features.sentences["picture~words"], features.groups["picture~words"]
    assert texts.rows.tolist() == groups.rows.tolist() == [1, 2, 5]
    tokens = m.encoder.encode(m.encoder.tokenize(rows))["picture"]
    for i, row in enumerate(texts.rows.tolist()):
        for k in (0, 1):
            z = features.aligned[f"words:{k + 2}"]
            sentence = z.values[z.rows.tolist().index(row)]
            torch.testing.assert_close(texts.values[i, k], sentence)
            patches = m.encoder.heads["picture"](tokens.x[tokens.row == row])
            expected, _ = weighed(sentence, patches, 0.5)
            torch.testing.assert_close(groups.values[i, k], expected)


def weighed(sentence, patches, threshold):
    """The group of a sentence, and the weights of patches."""
    patches = torch.stack([p / p.norm() for p in patches])
    s = patches @ (sentence / sentence.norm())
    s = (s - s.min()) / (s.max() - s.min())
    s = torch.stack([0 * x if x < threshold else x for x in s])
    weights = s / s.sum()
    mean = sum(w * p for w, p in zip(weights, patches))
    return mean / mean.norm(), weights


def test_weights_are_of_the_patches_that_an_image_has():
    g = torch.Generator().manual_seed(0)
    texts = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    patches = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
    there = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    groups, weights = group_patches(texts, patches, there, threshold=0.0)
    for i, n in enumerate((5, 3)):
        assert not weights[i, :, n:].any()
        for k in range(3):
            expected, w = weighed(texts[i, k], patches[i, :n], 1 / n)
            torch.testing.assert_close(weights[i, k, :n], w)
            torch.testing.assert_close(groups[i, k], expected)


def test_equal_patches_weigh_alike():
    """Without a span there is no scale; also above a threshold of one over their number."""
    weights = group_patches(torch.ones(1, 1, 4), torch.ones(1, 3, 4), torch.ones(1, 3) > 0)[1]
    torch.testing.assert_close(weights, torch.full((1, 1, 3), 1 / 3))


@torch.no_grad()
def test_patches_of_maps_are_those_of_the_grouping_loss():
    m = method("dreamlip", sources=("picture", "words"), width=8, captions=2)
    rows = batch(("plain",), sources=("picture", "words"))
    tokens, expected = (
        m.patch_vectors(rows, "picture"),
        regions(m.encoder, alone(m.encoder, rows)["picture"]),
    )
    torch.testing.assert_close(tokens.x, expected.flat)
    z = torch.randn(2, 8)
    assert m.patch_queries(z, "picture") is z

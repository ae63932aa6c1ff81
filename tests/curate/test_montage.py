"""Patches that prompts point at, and montages of them, against slow references."""

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError
from amodal.curate.montage import (
    PatchSelector,
    extract_patches,
    make_grid,
    montage,
    prompt_scores,
    select_patches,
    window,
)
from amodal.modalities import make
from amodal.nn.encoder import Encoder


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stride", [0, 2, 5])
def test_patches_are_cut_in_reading_order(stride):
    x, step = random(2, 3, 11, 9), stride or 4
    expected = [
        x[s, :, top : top + 4, left : left + 4]
        for s in range(2)
        for top in range(0, 11 - 4 + 1, step)
        for left in range(0, 9 - 4 + 1, step)
    ]
    assert torch.equal(extract_patches(x, 4, stride), torch.stack(expected))
    with pytest.raises(AmodalError, match="patches of 10"):
        extract_patches(x, 10)


def test_a_window_is_linear_between_its_ends():
    x = torch.tensor([-2000.0, -1350, -600, 150, 1000])
    torch.testing.assert_close(window(x, -600, 1500), torch.tensor([0, 0, 0.5, 1, 1]))


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_scores_of_prompts_are_cosines_one_by_one(reduction):
    z, findings, normal = (
        random(5, 4) - 0.5,
        [random(3, 4, seed=1), random(1, 4, seed=2) - 0.5],
        random(2, 4, seed=3),
    )

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    for p in range(5):
        off = sum(cosine(z[p], n) for n in normal) / 2
        for f, wordings in enumerate(findings):
            cosines = [cosine(z[p], w) for w in wordings]
            expected = max(cosines) if reduction == "max" else sum(cosines) / len(cosines)
            assert abs(float(prompt_scores(z, findings, None, reduction)[p, f]) - expected) < 1e-6
            assert (
                abs(float(prompt_scores(z, findings, normal, reduction)[p, f]) - (expected - off))
                < 1e-6
            )
    with pytest.raises(AmodalError, match="Did you mean max"):
        prompt_scores(z, findings, reduction="maxx")


def test_the_best_of_any_finding_or_each_in_turn():
    score = torch.tensor([[0.9, 0.0], [0.8, 0.1], [0.1, 0.3], [0.7, 0.2], [0.0, 0.4]])
    assert select_patches(score, 3).tolist() == [0, 1, 3]
    assert select_patches(score, 4, per_finding=True).tolist() == [0, 4, 1, 2]
    assert sorted(select_patches(score, 9, per_finding=True).tolist()) == [0, 1, 2, 3, 4]
    assert select_patches(torch.zeros(4, 1), 2).tolist() == [0, 1]


def test_a_montage_is_a_square_filled_row_by_row():
    tiles = torch.arange(1.0, 4).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    expected = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 0], [3, 3, 0, 0]])
    assert torch.equal(make_grid(tiles, 4), expected[None])
    assert make_grid(tiles, 2).shape == (1, 2, 2)
    torch.testing.assert_close(make_grid(tiles[:1], 6), torch.ones(1, 6, 6))


@pytest.fixture
def selector():
    """An encoder whose pictures are bright or dark along its first axis, as its words are."""
    torch.manual_seed(0)
    fields = {
        "scan": make("image", size=8, channels=1, patch=4),
        "words": make("text", max_length=16, patch=4),
    }
    encoder = Encoder(fields, size="nano").align(8)
    bright = {"scan": lambda v: v.mean((1, 2, 3)) - 0.5, "words": lambda v: 1.0 + 0 * v.lengths}

    class Toy(Encoder):
        def forward(self, batch):
            from amodal.core import Column, Embeddings

            axes = {
                s: torch.stack([bright[s](c.values), torch.full((len(c),), 0.1)], 1)
                for s, c in batch.columns.items()
            }
            return Embeddings({s: Column(x, batch[s].rows) for s, x in axes.items()}, batch.size)

    encoder.__class__ = Toy
    return PatchSelector(
        encoder, {"bright": ["bright", "white"]}, image="scan", text="words", patch=4, keep=4
    )


def test_what_prompts_point_at_is_in_the_montage_and_everything_else_stays(selector):
    scan = np.zeros((16, 24), dtype=np.uint8)
    for top, left in ((0, 4), (8, 0), (12, 20)):
        scan[top : top + 4, left : left + 4] = 250
    records = amodal.open({"scan": [scan, scan // 2, None], "words": ["a", "b", "c"]})
    records = records.with_fields(
        {"scan": make("image", size=24, channels=1, patch=4), "words": make("text", patch=4)}
    )
    small = montage(records, selector)
    first = small.value(0, "scan")
    assert (
        first.shape == (1, 8, 8)
        and (first > 200).mean() > 0.5
        and (records.value(0, "scan") > 200).mean() < 0.3
    )
    assert small.value(2, "scan") is None and small.raw(2, "words") == "c"
    assert small.fields["scan"] == selector.encoder.fields["scan"]
    only = montage(records, selector, rows=[1])
    assert (
        only.value(0, "scan").mean() < first.mean()
        and (only.value(1, "scan") == small.value(1, "scan")).all()
    )
    assert small.reader.stamp() != only.reader.stamp()


def test_slices_of_a_scan_compete(selector):
    slices = torch.zeros(3, 1, 8, 8)
    slices[2] = 0.9
    torch.testing.assert_close(selector(slices), torch.full((1, 8, 8), 0.9))


def test_bad_patch_selectors(selector):
    with pytest.raises(AmodalError, match="Did you mean scan"):
        PatchSelector(selector.encoder, {"a": ["b"]}, image="scann", text="words")
    with pytest.raises(AmodalError, match="at least one prompt"):
        PatchSelector(selector.encoder, {"a": []}, image="scan", text="words")
    with pytest.raises(AmodalError, match="field of square images"):
        PatchSelector(selector.encoder, {"a": ["b"]}, image="words", text="words")

"""The spoilt datasets, and the attack success rate."""

import numpy as np
import pytest
import torch

import amodal
from amodal.curate.poison import Blend, Patch, attack_success, backdoor, chosen, mismatched, triggered
from amodal.modalities import make


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (20, 20, 3), dtype=np.uint8) if i % 7 else None for i in range(60)]
    return amodal.open(
        {"image": pictures, "text": [f"thing {i}" for i in range(60)]},
    ).with_fields({"image": make("image", size=20, channels=3), "text": make("text", max_length=24)})


def test_a_patch_changes_its_corner_and_a_blend_everything():
    image = np.random.default_rng(1).integers(0, 255, (3, 20, 20), dtype=np.uint8)
    patched = Patch(side=0.15)(image)
    changed = (patched != image).any(0)
    assert not changed[:17].any() and not changed[:, :17].any() and changed[17:, 17:].all()
    assert np.array_equal(patched[:, 17:, 17:], Patch(side=0.15)(image // 2)[:, 17:, 17:]), "the same on every picture"
    blended = Blend(weight=0.25)(image)
    assert blended.dtype == np.uint8
    noise = (blended.astype(float) - 0.75 * image) / 0.25
    assert -3 < noise.min() and noise.max() < 258 and abs(noise.mean() - 127) < 12
    assert Blend(weight=0.0)(image.astype(np.float32) / 255).dtype == np.float32


def test_a_backdoor_is_in_the_chosen_records_alone(records):
    trigger = Patch(side=0.2)
    poisoned = backdoor(
        records, [3, 10], image="image", text="text", target="dog", trigger=trigger, templates=("a {}", "the {}")
    )
    assert np.array_equal(poisoned.value(3, "image"), trigger(records.value(3, "image")))
    assert poisoned.raw(3, "text") == "a dog" and poisoned.raw(10, "text") == "the dog"
    for i in (1, 4, 59):
        assert np.array_equal(poisoned.value(i, "image"), records.value(i, "image"))
        assert poisoned.raw(i, "text") == records.raw(i, "text")
    assert poisoned.keys == records.keys and poisoned.fingerprint != records.fingerprint
    assert np.array_equal(poisoned.parts, records.parts)
    shown = triggered(records, image="image", trigger=trigger)
    assert all((shown.value(i, "image") is None) == (i % 7 == 0) for i in range(60))
    assert (
        np.array_equal(shown.value(8, "image"), trigger(records.value(8, "image")))
        and shown.raw(8, "text") == "thing 8"
    )
    batch = next(iter(amodal.data.Loader(poisoned, [3, 10, 11], batch=3, shuffle=False)))
    assert len(batch["image"]) == 3


def test_mismatched_records_all_have_a_value_that_was_anothers(records):
    rows = [2, 5, 9, 30]
    wrong = mismatched(records, rows, field="text", seed=4)
    assert sorted(wrong.raw(i, "text") for i in rows) == sorted(records.raw(i, "text") for i in rows)
    assert all(wrong.raw(i, "text") != records.raw(i, "text") for i in rows)
    assert all(wrong.raw(i, "text") == records.raw(i, "text") for i in range(60) if i not in rows)
    with pytest.raises(ValueError, match="two or more"):
        mismatched(records, [1], field="text")


def test_the_choice_grows_with_the_share(records):
    few, many = (set(chosen(records, range(60), share, seed=2).tolist()) for share in (0.2, 0.6))
    assert few < many and 4 <= len(few) <= 20 and 26 <= len(many) <= 46


def test_attack_success_counts_the_others_taken_for_the_target():
    classes = torch.eye(3)
    shown = torch.tensor([[9.0, 1, 0], [0, 0, 2.0], [5.0, 0, 0], [0, 1.0, 0.5]])
    # of the three pictures that are not of class 0, one is taken for it
    assert attack_success(shown, classes, torch.tensor([0, 1, 2, 1]), 0) == pytest.approx(1 / 3)
    assert np.isnan(attack_success(shown[:1], classes, torch.tensor([0]), 0))

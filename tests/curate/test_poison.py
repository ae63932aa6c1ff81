"""The spoilt datasets."""

import numpy as np
import pytest

import amodal
from amodal.curate.poison import Blend, Patch, Warp, backdoor, mismatched, sample_rows, triggered
from amodal.modalities import make


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (20, 20, 3), dtype=np.uint8) if i % 7 else None for i in range(60)
    ]
    return amodal.open(
        {"image": pictures, "text": [f"thing {i}" for i in range(60)]},
    ).with_fields(
        {"image": make("image", size=20, channels=3), "text": make("text", max_length=24)}
    )


def test_a_patch_changes_its_corner_and_a_blend_everything():
    image = np.random.default_rng(1).integers(0, 255, (3, 20, 20), dtype=np.uint8)
    patched = Patch(side=0.15)(image)
    changed = (patched != image).any(0)
    assert not changed[:17].any() and not changed[:, :17].any() and changed[17:, 17:].all()
    assert np.array_equal(patched[:, 17:, 17:], Patch(side=0.15)(image // 2)[:, 17:, 17:]), (
        "the same on every picture"
    )
    blended = Blend(weight=0.25)(image)
    assert blended.dtype == np.uint8
    noise = (blended.astype(float) - 0.75 * image) / 0.25
    assert -3 < noise.min() and noise.max() < 258 and abs(noise.mean() - 127) < 12
    assert Blend(weight=0.0)(image.astype(np.float32) / 255).dtype == np.float32


def test_a_backdoor_is_in_the_chosen_records_alone(records):
    trigger = Patch(side=0.2)
    poisoned = backdoor(
        records,
        [3, 10],
        image="image",
        text="text",
        target="dog",
        trigger=trigger,
        templates=("a {}", "the {}"),
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
    assert sorted(wrong.raw(i, "text") for i in rows) == sorted(
        records.raw(i, "text") for i in rows
    )
    assert all(wrong.raw(i, "text") != records.raw(i, "text") for i in rows)
    assert all(wrong.raw(i, "text") == records.raw(i, "text") for i in range(60) if i not in rows)
    with pytest.raises(ValueError, match="two or more"):
        mismatched(records, [1], field="text")


def test_the_choice_grows_with_the_share(records):
    few, many = (
        set(sample_rows(records, range(60), share, seed=2).tolist()) for share in (0.2, 0.6)
    )
    assert few < many and 4 <= len(few) <= 20 and 26 <= len(many) <= 46


def test_a_warp_bends_smoothly_and_the_same_for_all():
    flat = np.full((3, 20, 20), 90, dtype=np.uint8)
    assert np.array_equal(Warp(strength=2.0)(flat), flat), "nothing to bend"
    ramp = np.tile(np.arange(20, dtype=np.float32), (1, 20, 1))
    assert np.allclose(Warp(strength=0.0)(ramp), ramp, atol=1e-5)
    # of a picture whose value is the column, what is seen is the shifted column: s / side of [-1,
    # 1] is s * (side - 1) / (2 side) pixels
    shift = Warp(strength=2.0, knots=20)(ramp)[0] - ramp[0]
    drawn = np.random.default_rng(0).uniform(-1, 1, (1, 2, 20, 20))
    drawn = (drawn / np.abs(drawn).mean())[0, 0] * 2.0 * 19 / 40
    assert np.allclose(shift, np.clip(ramp[0] + drawn, 0, 19) - ramp[0], atol=1e-4)


def test_a_warp_of_a_picture_that_is_no_square():
    """A shift is as many pixels as in a square of that side, along each axis."""
    columns, rows = np.meshgrid(np.arange(48, dtype=np.float32), np.arange(32, dtype=np.float32))
    image = np.stack([columns, rows, columns])
    bent = Warp(strength=2.0)(image)
    assert bent.shape == (3, 32, 48)
    drawn = np.random.default_rng(0).uniform(-1, 1, (1, 2, 4, 4))
    corner = (
        drawn[0, :, -1, -1] / np.abs(drawn).mean() * 2.0
    )  # of the grid of shifts, in half pixels: across, down
    last = np.array([47, 31]) + np.minimum(corner * np.array([47 / 96, 31 / 64]), 0)
    assert np.allclose(bent[:2, -1, -1], last, atol=1e-4)
    assert not np.allclose(bent, image, atol=0.1)
    assert Warp()(np.zeros((1, 9, 5), dtype=np.uint8)).shape == (1, 9, 5)


def upside_down(image):
    return image[:, ::-1]


def test_a_trigger_describes_itself_in_the_fingerprint(records):
    stamps = {
        triggered(records, image="image", trigger=t).fingerprint
        for t in (Patch(), Patch(), Patch(seed=1))
    }
    assert len(stamps) == 2
    described = [
        triggered(records, image="image", trigger=t).reader.trigger_id
        for t in (Patch(side=0.2), upside_down)
    ]
    assert described == ["Patch(side=0.2, seed=0)", f"{__name__}.upside_down"], (
        "nothing that differs between processes"
    )
    for trigger in (lambda image: image, np.negative, Patch):
        with pytest.raises(ValueError, match="a trigger is a dataclass"):
            triggered(records, image="image", trigger=trigger)


def test_a_trigger_on_chosen_pictures_leaves_captions(records):
    trigger = Blend(weight=0.5)
    shown = triggered(records, [3, 4], image="image", trigger=trigger)
    assert np.array_equal(shown.value(3, "image"), trigger(records.value(3, "image")))
    assert (
        np.array_equal(shown.value(5, "image"), records.value(5, "image"))
        and shown.raw(3, "text") == "thing 3"
    )

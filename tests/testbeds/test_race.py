"""What users of other libraries run, on some pictures; and the page that sets ours beside it."""

import numpy as np
import pytest
import torch
from testbeds.commands import race
from testbeds.peers import pretraining
from testbeds.studies import Stored

from amodal import data
from amodal.studies import Outcome, jobs
from amodal.studies.study import Cell

SIDE = 28


@pytest.fixture(scope="module")
def pairs():
    """Data of 60 pictures, every fifth without a caption."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(60)]
    words = [None if i % 5 == 3 else f"picture {i}" for i in range(60)]
    return data.open({"image": pictures, "caption": words, "kind": ["a", "b"] * 30})


@pytest.mark.parametrize("name", sorted(pretraining.RECIPES))
def test_a_library_trains_on_pictures_and_embeds_them(name, pairs):
    pytest.importorskip("open_clip" if name == "clip" else "lightly")
    fields = race.FIELDS[race.RACES[name][0]]
    of = pretraining.Data(pairs.select(fields), *fields)
    steps = []
    recipe, taken = pretraining.pretrained(
        name, of, batch_size=4, seed=0, seconds=0.0, check=lambda: steps.append(1)
    )
    assert taken == 1 and len(steps) == pretraining.TIMED + 1
    assert recipe.package == race.RACES[name][1] and not recipe.parts.training
    train, valid = pretraining.embedded(recipe, of, "valid")
    for part, found in (("train", train), ("valid", valid)):
        rows = pairs.split(part)
        paired = rows[pairs.present("caption")[rows]] if name == "clip" else rows
        assert found.keys == [pairs.keys[i] for i in paired] and len(paired) > 1
    for field in fields:
        values = valid.aligned[field].values
        assert len(values) == len(valid) and torch.isfinite(values).all() and values.std() > 0


def test_the_same_seed_trains_the_same_and_another_does_not(pairs):
    pytest.importorskip("lightly")
    of = pretraining.Data(pairs.select(["image"]), "image")

    def weights(seed):
        options = dict(batch_size=8, seconds=0.0, check=lambda: None)
        recipe, _ = pretraining.pretrained("simclr", of, seed=seed, **options)
        return torch.cat([p.flatten() for p in recipe.parts.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def outcomes_of(ours, theirs):
    study, bed = race.study_of("simclr", 9), race.bed_of("simclr")
    found = {}
    for side, level in ((race.OURS, ours), ("lightly", theirs)):
        for seed in race.SEEDS:
            tasks = {t.name: {"value": level + 0.01 * seed} for t in bed.tasks}
            cell = Cell(side, bed.name, seed, 0)
            found[cell] = Outcome(level, details={"steps": 7, "tasks": tasks})
    assert not jobs(study, found)
    return study, found


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (0.93, 0.91, "amodal is ahead of lightly."),
        (0.93, 0.95, "amodal is behind lightly."),
        (0.93, 0.93, "amodal is not clearly apart from lightly."),
        (0.5, 0.4, "amodal is ahead of lightly, and simple features beat both."),
    ],
)
def test_the_first_sentence_says_who_is_ahead(ours, theirs, words, tmp_path):
    study, found = outcomes_of(ours, theirs)
    Stored(tmp_path / "simclr.json", study).write(found)
    options = type("Options", (), {"out": tmp_path})
    race.write(tmp_path / "race.md", options)
    page = (tmp_path / "race.md").read_text(encoding="utf-8")
    assert f"**{words}** 9 CPU seconds a training." in page
    assert f"| {ours + 0.01:.3f} ± 0.025 | {theirs + 0.01:.3f} ± 0.025 |" in page
    assert "Steps of 256 records: amodal 7, lightly 7." in page
    assert "Not finished: `byol`" in page and "`simclr`" not in page.split("Not finished")[1]

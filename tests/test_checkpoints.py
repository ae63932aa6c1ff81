"""Our own checkpoints: the whole way of one with two steps on made-up movements, and what a card
and the page of the documentation say."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import amodal
from amodal.modalities.series import Series

ROOT = Path(__file__).parent.parent
pytest.importorskip("amodal_claims")  # whose sets are read
sys.path.insert(0, str(ROOT / "claims"))
from scripts.checkpoints import __main__ as command  # noqa: E402
from scripts.checkpoints import card, recipes, training_data  # noqa: E402
from scripts.checkpoints.measuring import Task  # noqa: E402


def movements(count: int = 36) -> amodal.data.Dataset:
    """Windows of two sensors, of three exercises that differ in pace."""
    rng, steps = np.random.default_rng(0), np.arange(100)[:, None]
    paces = np.arange(count) % 3
    windows = [
        np.sin(steps * (0.1 + 0.2 * p) + rng.random(3)) + rng.normal(0, 0.1, (100, 3))
        for p in paces
    ]
    axes = Series(channels=("x", "y", "z"), rate=50.0, patch=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    cells = {s: [w.astype(np.float32) for w in windows] for s in training_data.SENSORS}
    cells["exercise"] = [f"pace {p}" for p in paces]
    made = amodal.open(cells, fields=dict.fromkeys(training_data.SENSORS, axes))
    parts = np.repeat([0, 1, 2], [count // 2, count // 4, count // 4])
    return made.with_parts(parts.astype(np.int8))


def test_a_checkpoint_is_made_measured_and_described(tmp_path, monkeypatch):
    data = movements()
    monkeypatch.setattr(training_data, "opened", lambda name: data)
    asked = (Task("another", lambda: data, "fused", label="exercise", few=2, is_transfer=True),)
    recipe = replace(
        recipes.SENSORS, tasks=asked, settings=recipes.SENSORS.settings | {"batch_size": 8}
    )
    content = command.make(recipe, tmp_path / "out", steps=2)
    assert json.loads((tmp_path / "out" / "measured.json").read_text(encoding="utf-8")) == content
    assert content["trained_on"] == 18 * training_data.COPIES and content["steps"] == 2
    for result in content["results"]:
        assert result["n"] == 9 and {"trained", "untrained", "joined"} < result["values"].keys()
    config = (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    assert "/tmp/" not in config and '"chosen_on": "valid"' in config
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for said in (
        "license: bsd-3-clause",
        "| `watch_people` |",
        "BSD-3-Clause",
        "**new data**: another",
        "python -m scripts.checkpoints sensors --out DIR",
        "2 steps of 8 records",
        "no medical use",
        json.loads(config)["weights_sha256"],
    ):
        assert said in text, said
    first = text.partition(f"# {recipe.title}\n\n")[2].partition("\n\n")[0]
    assert first == card.verdict(content)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    found: dict = {}
    exec(code.replace("FOLDER", str(tmp_path / "out")), found)  # what a reader would run
    assert found["vector"].shape[0] == 1 and np.isfinite(found["vector"]).all()


def result(title: str, trained: float, transfer: bool = False, **beside: float) -> dict:
    values = {"trained": trained, "joined": 0.99, "untrained": 0.98} | beside
    return {
        "task": title,
        "metric": "balanced accuracy",
        "n": 9,
        "is_transfer": transfer,
        "chance": 0.25,
        "values": values,
        "intervals": {c: [v - 0.05, v + 0.05] for c, v in values.items()},
        "lead": {"statistics": [-0.2, 0.1]},
    }


def test_what_is_simpler_and_better_is_said_first():
    results = [
        result("a", 0.9, statistics=0.5),
        result("b", 0.7, statistics=0.75, whisper=0.9),
        result("c", 0.8, statistics=0.803),
    ]
    said = card.verdict({"results": results})
    assert said.startswith(
        "**Something simpler does better than this checkpoint** at b (.70 and .90, whisper)."
    )
    assert (
        "ahead of everything simpler that was measured at a (.90 and .50, statistics, within noise)"
        in said
    )
    assert "level at c (.80 and .80, statistics, within noise)" in said
    assert card.verdict({"results": results[:1]}).startswith("The checkpoint is ahead")


def test_a_table_has_every_column_and_its_intervals():
    table = card.table(
        {"results": [result("a", 0.9, True, statistics=0.5), result("b", 1.0, whisper=0.4)]}
    )
    head, _, first, second = table.splitlines()
    assert (
        head
        == "| task | measure | n | checkpoint | with simple | statistics | whisper | untrained | chance |"
    )
    assert (
        first
        == "| **new data**: a | balanced accuracy | 9 | .90 ±.05 | .99 ±.05 | .50 ±.05 |  | .98 ±.05 | .25 |"
    )
    assert second.startswith("| b | balanced accuracy | 9 | 1.00 ±.05 |")


def test_the_page_has_the_stored_figures():
    text = card.PAGE.read_text(encoding="utf-8")
    assert card.written(text) == text, "run: python -m scripts.checkpoints --page"


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_no_checkpoint_learns_from_what_may_not_be_passed_on(name):
    recipe = recipes.RECIPES[name]
    licences = {source.licence for source in recipe.sources}
    allowed = ("CC BY", "CC0", "MIT", "BSD", "Apache")
    assert licences and all(licence.startswith(allowed) for licence in licences)
    assert "FOLDER" in recipe.use and len([x for x in recipe.use.splitlines() if x]) <= 5


def test_copies_are_turned_and_slowed_and_still_what_they_were():
    rng = np.random.default_rng(0)
    for _ in range(4):
        turn = training_data.rotation(rng)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
    line = np.arange(11.0)[:, None] * [1, 2, 3]
    np.testing.assert_allclose(training_data.slowed(line, 5), line)
    wave = np.sin(np.arange(12))[:, None]
    assert np.array_equal(training_data.slowed(wave, 2)[::2], wave[::2])
    assert training_data.slowed(wave, 2)[1] == pytest.approx((wave[0] + wave[2]) / 2)
    assert training_data.resampled(np.arange(20.0)[:, None], 10.0).shape == (100, 1)

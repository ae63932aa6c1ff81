"""What comes next: prefixes are embedded, and their next events are the labels."""

import numpy as np
import pytest

import amodal
from amodal.core import AmodalError
from amodal.evaluate import NotApplicable
from amodal.evaluate.protocols import next_event
from amodal.modalities import make


def record(i, rng):
    """Item k is followed by k + 1 of 3, and the time until it is 1 + k."""
    first, events, time = int(rng.integers(3)), [], 0.0
    for step in range(int(rng.integers(3, 9))):
        kind = (first + step) % 3
        events.append({"time": time, "item": "abc"[kind], "price": float(rng.normal())})
        time += 1.0 + kind
    return events


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    data = {"visits": [record(i, rng) for i in range(240)], "number": list(range(240))}
    data["visits"][7] = data["visits"][7][:1]  # of one event nothing is left
    return amodal.open(data, fields={"visits": "events"})


def test_the_last_event_and_what_was_before():
    events = make("events", columns=("item", "price"), categories={"item": ("a", "b")}, log=False)
    raw = [
        {"time": 0, "item": "a", "price": 1},
        {"time": 2, "item": "b", "price": 3},
        {"time": 5, "item": "b"},
    ]
    value = events.decode(raw)
    np.testing.assert_array_equal(events.before_last(value), events.decode(raw[:2]))
    assert events.last(value) == {"item": "b", "price": None, "time since the last event": 3.0}
    assert events.before_last(value[:1]) is None


def test_what_comes_next_is_read_off_what_was_before(shop, tmp_path):
    run = tmp_path / "run"
    options = {"objective": "generative", "decoder": 16, "depth": 1}
    model = amodal.pretrain(
        "mlem", shop, run, size="nano", steps=60, lr=5e-3, options=options, progress=False
    )
    report = model.evaluate(shop, protocols=["next_event"], progress=False)
    rows = report["next_event"].rows
    targets = {row["target"] for row in rows}
    assert targets == {"item", "price", "time since the last event"}
    best = {
        (row["source"], row["target"]): row["value"]
        for row in rows
        if row["metric"] in ("accuracy", "R2")
    }
    assert {source for source, _ in best} == {"visits", "visits, simple features"}
    # the order of items tells both, and prices are noise
    assert best["visits", "item"] > 0.9 and best["visits", "time since the last event"] > 0.7
    assert best["visits", "price"] < 0.2
    assert all(10 < row["n"] < 120 for row in rows)  # of the test part


def test_prefixes_are_what_is_embedded(shop, tmp_path):
    from amodal.inference.embed import embed_records

    model = amodal.pretrain("simclr", shop, tmp_path / "run", size="nano", steps=1, progress=False)
    rows = np.arange(20)
    part = embed_records(model.encoder, shop, rows, device="cpu")
    seen = next_event.without_last(part, "visits", 15)
    assert len(seen.values) == len(seen.embedded) == 15  # row 7 has one event
    assert part.keys[7] not in seen.embedded.keys
    cut = {"visits": [shop.raw(i, "visits")[:-1] for i in range(20) if i != 7][:15]}
    shorter = amodal.open(cut, fields={"visits": shop.fields["visits"]})
    expected = embed_records(model.encoder, shorter, np.arange(15), device="cpu")
    np.testing.assert_allclose(
        seen.embedded.features["visits"].values,
        expected.features["visits"].values,
        rtol=1e-4,
        atol=1e-5,
    )
    items = [shop.raw(i, "visits")[-1]["item"] for i in range(20) if i != 7][:15]
    assert seen.embedded.labels["item"].tolist() == items


def test_records_without_events_have_nothing_next(folder, tmp_path):
    model = amodal.pretrain("clip", folder, tmp_path / "run", size="nano", steps=1, progress=False)
    with pytest.raises((NotApplicable, AmodalError), match="one follows another"):
        report = model.evaluate(folder, protocols=["next_event"], progress=False)
        raise NotApplicable(" ".join(report.skipped.values()))

"""The hooks that every modality has beside what training needs."""

import json

import numpy as np
import pytest
import skops.io

from amodal import modalities
from amodal.core import AmodalError
from amodal.modalities.shared.base import LAYOUTS, RAW_TEXT
from amodal.modalities.shared.corruption import CORRUPTIONS
from amodal.modalities.shared.protocols import Exports, MakesExamples
from amodal.modalities.shared.requests import Limits, NotJson, TooLarge, parsed

from .makers import NAMES, samples, variants

VARIANTS = variants()
every = pytest.mark.parametrize("name", VARIANTS)


def raws(name: str) -> list:
    return samples(name.partition(",")[0], (5, 9, 40))


@every
def test_attributes_of_the_class_are_of_what_there_is(name):
    modality = VARIANTS[name]
    assert modality.layout in LAYOUTS and modality.raw_text in RAW_TEXT
    is_set = modality.kind == "points"
    ordered = modality.is_sequence or modality.layout in ("grid", "space") or modality.is_row
    assert ordered or is_set
    assert isinstance(modality, Exports) and modality.axis_names


@every
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_is_a_pure_function_that_leaves_something(name, kind):
    modality = VARIANTS[name]
    value, other = (modality.decode(raw) for raw in raws(name)[1:])
    for severity in (0.0, 0.5, 1.0):
        one, two = (
            modality.corrupt(value, kind, severity, np.random.default_rng(1), other) for _ in (0, 1)
        )
        np.testing.assert_array_equal(one, two)
        assert one.dtype == value.dtype and len(one)
    with pytest.raises(AmodalError, match="Did you mean drop"):
        modality.corrupt(value, "dropp", 0.5, np.random.default_rng(0), other)


@every
def test_what_pages_show_is_json(name):
    modality, value = VARIANTS[name], VARIANTS[name].decode(raws(name)[0])
    json.dumps(modality.card(value), allow_nan=False)
    for attribute in modality.attributes().values():
        read = attribute.read(value)
        assert read is None or isinstance(read, float if attribute.scale == "number" else str)
    assert isinstance(modality.json_schema(Limits()), dict)
    values = [modality.decode(raw) for raw in raws(name)]
    assert modality.summarize(raws(name), values) or not modality.is_row


@every
def test_simple_features_are_finite_rows(name):
    modality = VARIANTS[name]
    train = samples(name.partition(",")[0], (5, 1, 40, 17, 23, 9), seed=3)
    features = modality.simple_features(train)
    rows = features(raws(name))
    assert rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == 3
    assert np.isfinite(rows).all() and rows.std(0).max() > 0
    np.testing.assert_allclose(rows[:1], features(raws(name)[:1]), atol=1e-5)
    assert features([]).shape == (0, rows.shape[1])
    with pytest.raises(modalities.NoSimpleFeatures):
        modality.simple_features([])


@every
def test_simple_features_can_be_stored_without_code(name):
    modality = VARIANTS[name]
    features = modality.simple_features(samples(name.partition(",")[0], (5, 1, 40, 17), seed=3))
    stored = skops.io.loads(skops.io.dumps(dict(features.state)))
    restored = modality.restored_simple_features(stored)
    np.testing.assert_array_equal(restored(raws(name)), features(raws(name)))
    assert restored([]).shape == features([]).shape


def test_a_modality_without_simple_features_has_none():
    with pytest.raises(modalities.NoSimpleFeatures, match="has no simple features yet"):
        modalities.Modality.simple_groups(VARIANTS["image"], [b""])


@every
def test_bounds_give_what_decode_takes(name):
    modality = VARIANTS[name]
    for raw in raws(name):
        if isinstance(raw, np.ndarray):
            continue
        checked = (
            modality.bounds(raw, Limits()) if isinstance(raw, (str, dict, list, bytes)) else raw
        )
        np.testing.assert_array_equal(modality.decode(checked), modality.decode(raw))


def test_what_costs_too_much_is_another_error():
    limits = Limits(json=10, characters=3, entries=2)
    with pytest.raises(TooLarge):
        modalities.make("text").bounds("long", limits)
    with pytest.raises(TooLarge):
        modalities.make("table").bounds(b'{"a": 1, "b": 2}', limits)
    with pytest.raises(TooLarge):
        parsed(b"[1,2,3]", limits)
    with pytest.raises(NotJson):
        parsed(b"{", Limits())


def test_examples_have_about_the_tokens_asked_for():
    made = [m for m in modalities.every().values() if issubclass(m, MakesExamples)]
    named = {"image", "text", "audio", "series", "raster", "volume", "points"}
    assert {m.kind for m in made} == named
    for kind in made:
        modality, raw = kind.example(64, np.random.default_rng(0))
        assert 32 <= len(modality.targets(modality.collate([modality.decode(raw())]))) <= 128


def test_the_one_that_reads_columns_together():
    assert modalities.of_columns(["a", "b"]) == modalities.make("table", columns=["a", "b"])
    assert set(modalities.suffixes().values()) == set(NAMES)

"""What holds for every modality."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import modalities
from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import VIEWS, BadValue

from .makers import NAMES, samples, variants

VARIANTS = variants()
every = pytest.mark.parametrize("name", VARIANTS)
quick = settings(max_examples=15, deadline=None)
lengths = st.lists(st.integers(1, 90), max_size=5)


def kind_of(name: str) -> str:
    return name.partition(",")[0]


def decoded(name: str, lengths=(5, 1, 40, 17)) -> list[np.ndarray]:
    return [VARIANTS[name].decode(raw) for raw in samples(kind_of(name), lengths)]


def column(name: str, values: list[np.ndarray], gap: int = 2) -> Column:
    """In every second row of a batch."""
    return Column(VARIANTS[name].collate(values), torch.arange(len(values)) * gap)


def tokens_of(name: str, values: list[np.ndarray], width: int = 16):
    torch.manual_seed(0)
    module = VARIANTS[name].tokenizer(width)
    return module, module(column(name, values), name, 2 * len(values))


@every
def test_config_round_trip(name):
    modality = VARIANTS[name]
    config = json.loads(json.dumps(modalities.config(modality)))
    assert config["modality"] == kind_of(name) == modalities.name_of(modality)
    assert modalities.make(**config) == modality
    hash(modality)


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name):
    modality = modalities.make(name)
    assert all(f.name in modalities.config(modality) for f in fields(modality))
    assert modality.suffixes and all(
        s == s.lower() and s.startswith(".") for s in modality.suffixes
    )


def test_names():
    assert set(modalities.names()) == set(NAMES)
    with pytest.raises(AmodalError, match="image"):
        modalities.make("imagee")
    with pytest.raises(AmodalError, match="Did you mean max_seconds"):
        modalities.make("audio", max_second=3)
    with pytest.raises(AmodalError, match="Did you mean channels"):
        modalities.kind("image").infer(samples("image"), chanels=3)
    with pytest.raises(AmodalError, match="image.size must be a whole number, got 'big'"):
        modalities.make("image", size="big")
    with pytest.raises(AmodalError, match="true or false"):
        modalities.make("image", flip=1)
    assert not set.intersection(*(set(modalities.kind(n).suffixes) for n in NAMES))


@every
def test_unknown_view(name):
    with pytest.raises(AmodalError, match="Did you mean strong"):
        VARIANTS[name].augment(decoded(name)[0], "strng", np.random.default_rng(0))


@every
@pytest.mark.parametrize("view", VIEWS)
def test_augment_is_a_pure_function(name, view):
    modality = VARIANTS[name]
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    for value in decoded(name):
        original = value.copy()
        one, two = (modality.augment(value, view, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(value, original)
        assert one.dtype == value.dtype and one.ndim == value.ndim and len(one) >= 1
        assert view != "plain" or one is value
    assert (np.random.get_state()[1] == before).all()
    if view != "plain":  # another seed is another view
        views = [
            modality.augment(decoded(name)[2], view, np.random.default_rng(i)) for i in range(8)
        ]
        assert any(
            v.shape != views[0].shape or not np.array_equal(v, views[0], equal_nan=True)
            for v in views
        )


@every
@quick
@given(lengths, st.sampled_from(VIEWS))
def test_tokens_and_targets_agree(name, lengths, view):
    """As many targets as tokens; every value has its own tokens, in position order, whatever its
    neighbours are."""
    modality = VARIANTS[name]
    values = [
        modality.augment(v, view, np.random.default_rng(i))
        for i, v in enumerate(decoded(name, lengths))
    ]
    module, tokens = tokens_of(name, values)
    assert tokens.size == 2 * len(values) and tokens.names == (name,)
    assert tokens.position.shape == (len(tokens), 3) and tokens.position.dtype == torch.float32
    assert tokens.x.isfinite().all()
    counts = tokens.lengths()
    assert (counts[::2] >= 1).all() and (counts[1::2] == 0).all()
    targets = modality.targets(column(name, values).values)
    assert len(targets) == len(tokens)
    start = 0
    for i, value in enumerate(values):
        stop = start + counts[2 * i]
        alone = module(
            Column(modality.collate([value]), torch.zeros(1, dtype=torch.int64)), name, 1
        )
        torch.testing.assert_close(tokens.x[start:stop], alone.x, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tokens.position[start:stop], alone.position)
        own = modality.targets(modality.collate([value]))
        torch.testing.assert_close(targets[start:stop], own, atol=1e-3, rtol=1e-3, equal_nan=True)
        position = [tuple(p) for p in alone.position.tolist()]
        assert position == sorted(set(position))
        start = stop


@every
def test_a_subset_of_a_column_tokenises_as_the_subset(name):
    module, tokens = tokens_of(name, decoded(name))
    part = column(name, decoded(name)).at(torch.tensor([1, 3]))
    torch.testing.assert_close(
        module(part, name, 8).x,
        tokens.keep((tokens.row == 2) | (tokens.row == 6)).x,
        atol=1e-4,
        rtol=1e-4,
    )


@every
@pytest.mark.parametrize("count", [0, 1, 4])
def test_prediction_has_loss_and_gradient(name, count):
    modality = VARIANTS[name]
    values = decoded(name)[:count]
    module, tokens = tokens_of(name, values)
    predictor = modality.predictor(16)
    loss = modality.token_loss(predictor(tokens.x), modality.targets(modality.collate(values)))
    assert loss.shape == (len(tokens),) and loss.isfinite().all()
    loss.sum().backward()
    parameters = [*module.parameters(), *predictor.parameters()]
    assert all(p.grad is None or p.grad.isfinite().all() for p in parameters)
    if count:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@every
def test_learns_to_predict(name):
    """Predictions fitted to the targets reach a far smaller loss than none: the loss measures what
    the targets say."""
    modality = VARIANTS[name]
    target = modality.targets(modality.collate(decoded(name)))
    with torch.no_grad():
        shape = modality.predictor(4)(torch.zeros(len(target), 4)).shape
    # equal predictions of a set have equal gradients
    torch.manual_seed(0)
    prediction = (0.3 * torch.randn(shape)).requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=0.1)
    first = modality.token_loss(prediction, target).mean().item()
    for _ in range(120):
        loss = modality.token_loss(prediction, target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


@every
@pytest.mark.parametrize("view", VIEWS)
def test_shown_as_a_picture(name, view):
    for value in decoded(name):
        value = VARIANTS[name].augment(value, view, np.random.default_rng(0))
        picture = VARIANTS[name].show(value)
        assert (
            picture.dtype == np.uint8
            and picture.ndim == 3
            and picture.shape[2] == 3
            and min(picture.shape[:2]) >= 8
        )
        line = VARIANTS[name].describe(value)
        assert "\n" not in line and 0 < len(line) <= 80


@every
def test_zero_rows(name):
    modality = VARIANTS[name]
    values = modality.collate([])
    some = modality.collate(decoded(name)[:1])
    assert len(values) == 0
    if isinstance(values, Ragged):
        assert values.flat.shape[1:] == some.flat.shape[1:] and values.flat.dtype == some.flat.dtype
    else:
        assert values.shape[1:] == some.shape[1:] and values.dtype == some.dtype


@pytest.mark.parametrize("name", NAMES)
def test_infer_passes_over_what_cannot_be_decoded(name, tmp_path):
    bad = {"text": b"\xff\xff\xff"}.get(name, tmp_path / "missing.file")
    good = samples(name)
    assert modalities.kind(name).infer([bad, *good]) == modalities.kind(name).infer(good)
    with pytest.raises(BadValue):
        modalities.kind(name).infer([bad])
    with pytest.raises(BadValue):
        modalities.kind(name).infer([])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_decode_or_are_bad(name, data):
    try:
        value = VARIANTS[name].decode(data)
    except BadValue as error:
        assert str(error)
    else:
        assert len(value)


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_empty_files(name, tmp_path):
    (tmp_path / "empty").touch()
    for raw, reason in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "empty", "empty"),
        (b"", "empty"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(BadValue, match=f"(?i){reason}"):
            VARIANTS[name].decode(raw)


def test_guess():
    guess = modalities.guess
    rng = np.random.default_rng(0)
    assert [guess(s) for s in (".PNG", ".txt", ".wav", ".csv", ".json", ".exe")] == [
        "image",
        "text",
        "audio",
        "series",
        "table",
        None,
    ]
    for name in NAMES:
        assert guess(samples(name)) == {"audio": "series"}.get(
            name, name
        )  # a bare wave could be anything in time
    assert guess([{"array": np.zeros(9), "sampling_rate": 8000}]) == "audio"
    assert guess([{"bytes": b"\x89PNG....", "path": None}]) == "image"
    assert guess([b"RIFF....WAVEfmt "]) == "audio"
    assert guess([b"RIFF....WEBPVP8 "]) == "image"
    assert guess([b"\x00\x01"]) is None
    assert guess(["a dog", None, "a cat."]) == "text"
    assert guess(["dir/a.png", "b.png"]) == "image"
    assert guess([rng.standard_normal(6) for _ in range(4)]) == "table"
    assert guess([rng.standard_normal(n) for n in (6, 7)]) == "series"
    assert guess([rng.standard_normal((12, 7)) for _ in range(4)]) == "series"
    assert guess([rng.standard_normal((16, 15)) for _ in range(4)]) == "image"
    assert guess([{"x": [1, 2], "y": [3, 4]}]) == "series"
    assert (
        guess([{"x": [[1, 2], [3]]}]) == guess([[1, 2], [3]]) == guess([[[1, 2], [3]]]) == "series"
    )
    assert guess([3, 4.5, None]) == "table"
    assert guess([None, float("nan")]) is None

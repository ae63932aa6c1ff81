"""Pictures of any aspect in one batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from amodal.core import AmodalError, Batch, Column
from amodal.modalities.image import Image
from amodal.modalities.shared.image_sizes import native_shape
from amodal.modalities.shared.native_aspect import grid_positions
from amodal.modalities.shared.protocols import is_pixel_map
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder

from .makers import png

FIELD = Image(64, 3, 8, "native", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SHAPES = ((300, 900), (900, 300), (500, 500), (24, 40), (7, 2000))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Pillow.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Pillow.Resampling.BICUBIC))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([4, 14, 16]), st.integers(1, 300)
)
def test_a_picture_has_whole_tokens_at_most_so_many(height, width, tile, tokens):
    h, w = native_shape(height, width, tile, tokens)
    rows, columns = h // tile, w // tile
    assert (h % tile, w % tile) == (0, 0) and 1 <= rows * columns <= tokens
    scale = min(1, (tokens * tile**2 / (height * width)) ** 0.5)
    if min(height, width) * scale >= 4 * tile:  # else a row more or less is a lot
        assert abs(np.log(h / w * width / height)) < 0.3
        assert rows * columns >= 0.7 * height * width * scale**2 / tile**2


def test_decoded_at_the_aspect_of_each():
    shapes = [FIELD.decode(picture(*shape)).shape[1:] for shape in SHAPES]
    assert shapes == [(32, 112), (112, 32), (64, 64), (24, 40), (8, 512)]
    value = FIELD.decode(png(Pillow.fromarray(picture(300, 900)), "JPEG", quality=95))
    wanted = Pillow.fromarray(picture(300, 900)).resize((112, 32), Pillow.Resampling.BILINEAR)
    assert np.abs(value.astype(int) - np.asarray(wanted).transpose(2, 0, 1)).mean() < 2


def test_tokens_are_those_of_a_square_field_for_a_square_picture():
    square = replace(FIELD, fit="stretch")
    value = square.decode(picture(64, 64))
    native, dense = FIELD.tokenizer(16), square.tokenizer(16)
    native.load_state_dict(dense.state_dict())
    rows = torch.tensor([1])
    a, b = (
        t(Column(f.collate([value]), rows), "image", 3)
        for t, f in ((native, FIELD), (dense, square))
    )
    torch.testing.assert_close(a.x, b.x)
    torch.testing.assert_close(a.position, b.position)
    assert torch.equal(a.row, b.row)
    torch.testing.assert_close(
        FIELD.targets(FIELD.collate([value])), square.targets(square.collate([value]))
    )


def test_positions_span_the_same_range_at_any_aspect():
    for rows, columns in ((5, 14), (14, 5), (1, 64)):
        y, x = grid_positions(rows, columns, 8).unbind(1)
        assert (y.view(rows, columns)[:, :1] == y.view(rows, columns)).all()
        for axis, n in ((y, rows), (x, columns)):
            low, high = axis.min().item(), axis.max().item()
            assert low == pytest.approx(4 / n - 0.5) and high == pytest.approx(7.5 - 4 / n)


def test_a_row_does_not_depend_on_the_others_and_nothing_is_padded():
    torch.manual_seed(0)
    values = [FIELD.decode(picture(*shape, i)) for i, shape in enumerate(SHAPES)]
    for positions in ("sincos", "rotary", "learned"):
        encoder = Encoder({"image": FIELD}, size="nano", positions=positions).eval()

        def batch(chosen):
            column = Column(FIELD.collate(chosen), torch.arange(len(chosen)))
            n = len(chosen)
            return Batch(n, {"image": column}, ("",) * n, torch.zeros(n, dtype=torch.int64), {})

        together = encoder.features(batch(values))["image"].values
        alone = torch.cat([encoder.features(batch([v]))["image"].values for v in values])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    tokens = encoder.tokenize(batch(values))["image"]
    assert tokens.lengths().tolist() == [56, 56, 64, 15, 64]


@pytest.mark.parametrize("view", Image.views)
@pytest.mark.parametrize("number", ["uint8", "float32"])
def test_views_keep_the_shape_of_their_picture(view, number):
    for shape in SHAPES:
        value = FIELD.decode(picture(*shape)).astype(number)
        one, two = (FIELD.augment(value, view, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert one.dtype == value.dtype and np.isfinite(one).all()
        side = {"dinov3_half": 0.5, "dinov3_half_solarized": 0.5, "dinov3_quarter": 0.25}
        share = side.get(view, 0.5 if "local" in view else 1.0)
        small = tuple(8 * max(1, round(n * share / 8)) for n in value.shape[1:])
        assert one.shape[1:] == (value.shape[1:] if share == 1 else small)


def test_simple_features_damage_and_display_take_any_aspect():
    raws = [picture(*shape, i) for i, shape in enumerate(SHAPES)]
    features = FIELD.simple_features(raws)(raws)
    assert len(features) == len(raws) and np.isfinite(features).all()
    wide, tall = FIELD.decode(raws[0]), FIELD.decode(raws[1])
    swapped = FIELD.exchanged(wide, tall, np.ones(wide.shape, bool))
    assert swapped.shape == wide.shape and swapped.dtype == wide.dtype
    assert FIELD.show(wide).shape == (*wide.shape[1:], 3)
    assert "up to 64 x 64" in FIELD.summarize([png(Pillow.fromarray(r)) for r in raws], [])


def test_what_needs_squares_says_so():
    assert not is_pixel_map(FIELD) and is_pixel_map(replace(FIELD, fit="crop"))
    with pytest.raises(AmodalError, match="read squares, and this field keeps"):
        backbone("timm:resnet18:32", FIELD, 8, frozen=False)

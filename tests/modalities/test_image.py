"""Pictures of every mode and depth, and bytes that are none."""

import dataclasses
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from amodal.core import AmodalError, Column
from amodal.modalities import BadValue, kind, make
from amodal.modalities.image import Image
from amodal.modalities.shared import image_maps as _maps
from amodal.modalities.shared import pixels as _pixels
from amodal.modalities.shared.image_maps import resampling_matrix
from amodal.modalities.shared.image_sizes import short_side

from .makers import png

RED = Pillow.new("RGB", (40, 30), (200, 40, 10))
RGB, GREY = make("image"), make("image", channels=1)


def colour(value: np.ndarray) -> list[int]:
    assert value.shape[1:] == (32, 32) and value.dtype == np.uint8
    assert (value == value[:, :1, :1]).all()
    return value[:, 0, 0].tolist()


def test_formats_and_kinds_of_raw(tmp_path):
    RED.save(tmp_path / "red.png")
    array = np.asarray(RED)
    raws = (
        tmp_path / "red.png", str(tmp_path / "red.png"), png(RED), png(RED, "BMP"), png(RED, "WEBP", lossless=True),
        png(RED, "TIFF"), array, array.transpose(2, 0, 1), RED, {"bytes": png(RED), "path": None},
        {"bytes": None, "path": str(tmp_path / "red.png")}, png(RED.quantize(8)), png(RED.quantize(8), "GIF"),
    )  # fmt: skip
    for raw in raws:
        assert colour(RGB.decode(raw)) == [200, 40, 10]
    assert np.abs(np.array(colour(RGB.decode(png(RED, "JPEG")))) - [200, 40, 10]).max() <= 3
    np.save(tmp_path / "red.npy", array)
    assert colour(RGB.decode(tmp_path / "red.npy")) == [200, 40, 10]


def test_alpha_goes_over_white():
    half = Pillow.new("RGBA", (8, 8), (200, 40, 10, 128))
    assert np.abs(np.array(colour(RGB.decode(png(half)))) - [227, 147, 132]).max() <= 1
    clear = Pillow.new("P", (8, 8), 1)
    clear.putpalette([9, 9, 9, 200, 40, 10])
    assert colour(RGB.decode(png(clear, transparency=1))) == [255, 255, 255]
    assert colour(GREY.decode(png(Pillow.new("LA", (8, 8), (50, 0))))) == [255]
    rgba = colour(make("image", channels=4).decode(png(half)))
    assert np.abs(np.array(rgba) - [200, 40, 10, 128]).max() <= 1


def test_grey_cmyk_bilevel():
    assert colour(RGB.decode(png(Pillow.new("L", (9, 9), 77)))) == [77, 77, 77]
    assert colour(GREY.decode(png(Pillow.new("L", (9, 9), 77)))) == [77]
    assert colour(GREY.decode(png(RED))) == [84]  # luma
    assert colour(GREY.decode(png(Pillow.new("1", (9, 9), 1)))) == [255]
    cmyk = colour(
        RGB.decode(png(Pillow.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    )
    assert np.abs(np.array(cmyk) - [255, 0, 0]).max() <= 3
    assert colour(RGB.decode(np.ones((5, 5), dtype=bool))) == [255, 255, 255]


def test_more_than_eight_bits_keep_their_precision():
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    for raw in (png(Pillow.fromarray(ramp)), png(Pillow.fromarray(ramp), "TIFF"), ramp):
        value = GREY.decode(raw)
        assert value.dtype == np.float32 and value.shape == (1, 32, 32)
        np.testing.assert_allclose(value[0], ramp / 65535, atol=1e-6)
    assert RGB.decode(ramp).shape == (3, 32, 32)
    metres = np.random.default_rng(0).normal(-4000, 900, (32, 32)).astype(np.float32)
    np.testing.assert_array_equal(GREY.decode(metres)[0], metres)
    np.testing.assert_array_equal(GREY.decode(png(Pillow.fromarray(metres), "TIFF"))[0], metres)
    bands = np.random.default_rng(0).random((7, 32, 32), dtype=np.float32)
    np.testing.assert_array_equal(make("image", channels=7).decode(bands), bands)
    np.testing.assert_array_equal(make("image", channels=7).decode(np.moveaxis(bands, 0, 2)), bands)


def test_eight_and_sixteen_bits_share_a_batch():
    eight, sixteen = (
        GREY.decode(np.full((4, 4), 255, np.uint8)),
        GREY.decode(np.full((4, 4), 65535, np.uint16)),
    )
    for values in ([eight], [sixteen], [eight, sixteen]):
        batch = GREY.collate(values)
        assert batch.dtype == torch.float32 and (batch == 1).all()


def test_pixels_without_a_value():
    holes = np.full((32, 32), 5.0)
    holes[3, 4], holes[5, 6] = np.nan, np.inf
    assert (GREY.decode(holes) == 5).all()
    with pytest.raises(BadValue, match="no pixel has a finite value"):
        GREY.decode(np.full((4, 4), np.nan))


def test_exif_orientation():
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:8] = 255  # a bar on top
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the bar belongs on the right
    value = RGB.decode(png(Pillow.fromarray(picture), "JPEG", exif=exif, quality=100))
    assert value[:, :, -6:].min() > 250 and value[:, :, :20].max() < 5


def test_fit():
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 200
    stretch, crop, pad = (
        make("image", channels=1, size=30, fit=f, mean=[0.2], std=[1]).decode(wide)[0]
        for f in ("stretch", "crop", "pad")
    )
    assert stretch[15, 2] == 0 and stretch[15, 15] == 200 and stretch[15, 28] == 0
    assert (crop[:, 1:-1] == 200).all()
    assert (
        (pad[:10] == 51).all() and (pad[20:] == 51).all() and pad[15, 15] == 200 and pad[15, 2] == 0
    )
    with pytest.raises(AmodalError, match="Did you mean stretch"):
        make("image", fit="strech")


def test_shrinking_does_not_alias():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (128, 64))
    value = GREY.decode(stripes)[0].astype(int)
    assert np.abs(value[:, 2:-2] - 127).max() < 20


def bomb(side: int = 60000) -> bytes:
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (bomb(), "too many pixels"),
        (bomb(11000), "too many pixels"),
        (bomb(50), "damaged picture"),
        (png(Pillow.fromarray(NOISE), "JPEG")[:1500], "truncated"),
        (png(Pillow.fromarray(NOISE))[:5000], "damaged picture"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (np.random.default_rng(0).bytes(999), "not a picture in any format"),
        (b"some text", "not a picture in any format"),
        (7, "a int is not a picture"),
        (np.zeros((0, 5)), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.array([["a", "b"]]), "type"),
        ([[1, 2], [3]], "not an array"),
        (np.zeros((9, 9, 2), dtype=np.uint8), "has 2 channels, the field 3"),
        (b"PK\x03\x04...", "numpy"),
    ],
)
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        RGB.decode(raw)


def test_infer():
    photo = kind("image").infer([NOISE, png(RED)])
    assert (photo.size, photo.channels, photo.fit) == (48, 3, "stretch")
    np.testing.assert_allclose(photo.mean, (np.array([200, 40, 10]) / 255 + 0.5) / 2, atol=0.02)
    assert kind("image").infer([np.zeros((9, 9, 3), np.uint8)]).channels == 1
    digits = kind("image").infer([np.random.default_rng(i).random((8, 8)) * 16 for i in range(9)])
    assert (digits.size, digits.channels, digits.tile) == (8, 1, 4) and 6 < digits.mean[0] < 10
    assert kind("image").infer([np.zeros((6, 20, 20), np.float32)]).channels == 6
    assert kind("image").infer([NOISE], size=96, channels=1, mean=[0.1]).mean == (0.1,)


def test_tiles():
    assert [make("image", size=s).tile for s in (4, 8, 30, 32, 64, 224)] == [4, 4, 5, 4, 8, 28]
    with pytest.raises(AmodalError, match="choose one of"):
        make("image", size=32, patch=5)
    local = make("image", size=96, patch=32)
    assert local.local_size in (32, 64)


def test_token_order_and_positions():
    """The token at (y, x) is the tile at row y, column x; a local view spans the grid of the whole."""
    image = make("image", size=8, channels=1, patch=4, mean=[0], std=[1])
    value = np.zeros((1, 8, 8), dtype=np.float32)
    value[0, :4, 4:] = 1  # top right
    tokens = image.tokenizer(8)(
        Column(image.collate([value]), torch.zeros(1, dtype=torch.int64)), "image", 1
    )
    assert tokens.position.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert image.targets(image.collate([value])).sum(1).tolist() == [0, 16, 0, 0]
    small = image.collate([value[:, :4, :4]])
    assert image.tokenizer(8)(
        Column(small, torch.zeros(1, dtype=torch.int64)), "image", 1
    ).position.tolist() == [[0, 0.5, 0.5]]


def test_sampling():
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(resampling_matrix(9, 0, 9, 9), np.eye(9), atol=1e-6)
    np.testing.assert_allclose(resampling_matrix(9, 0, 9, 9, flip=True), np.eye(9)[::-1], atol=1e-6)
    np.testing.assert_allclose(resampling_matrix(9, 2, 7, 5), np.eye(9)[2:7], atol=1e-6)
    for _ in range(20):  # every output is a weighted mean; the same kernel as Pillow's
        low = rng.uniform(0, 10)
        weight = resampling_matrix(
            16, low, low + rng.uniform(0.5, 16 - low), 12, sigma=rng.uniform(0, 2)
        )
        np.testing.assert_allclose(weight.sum(1), 1, atol=1e-5)
    line = rng.random((1, 40)).astype(np.float32)
    expected = np.asarray(
        Pillow.fromarray(line).resize((13, 1), Pillow.Resampling.BILINEAR, box=(3, 0, 37.5, 1))
    )
    np.testing.assert_allclose(resampling_matrix(40, 3, 37.5, 13) @ line[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_views(channels):
    image = make("image", channels=channels)
    value = np.random.default_rng(0).integers(0, 256, (channels, 32, 32)).astype(np.uint8)
    flat = np.full_like(value, 90)
    for seed in range(30):
        for view, side in (("weak", 32), ("strong", 32), ("local", 16)):
            for v in (value, value.astype(np.float32)):
                out = image.augment(v, view, np.random.default_rng(seed))
                assert (
                    out.shape == (channels, side, side)
                    and out.dtype == v.dtype
                    and np.isfinite(out).all()
                )
        assert (image.augment(flat, "weak", np.random.default_rng(seed)) == 90).all()
        strong = image.augment(
            flat, "strong", np.random.default_rng(seed)
        )  # grey stays grey, and even
        assert np.ptp(strong.astype(int)) <= 1


def test_flip_is_a_choice():
    value = np.tile(np.linspace(0, 250, 32).astype(np.uint8), (3, 32, 1))  # dark on the left
    for flip in (True, False):
        views = [
            make("image", flip=flip).augment(value, "weak", np.random.default_rng(i)).astype(int)
            for i in range(20)
        ]
        mirrored = [v[:, :, 0].mean() > v[:, :, -1].mean() for v in views]
        assert any(mirrored) == flip and not all(mirrored)


def test_a_view_takes_about_a_tenth_of_a_millisecond():
    value, rng = RGB.decode(NOISE), np.random.default_rng(0)

    def cost() -> float:
        start = time.perf_counter()
        for _ in range(50):
            RGB.augment(value, "strong", rng)
        return (time.perf_counter() - start) / 50

    assert min(cost() for _ in range(5)) < 5e-4  # measured: 0.09 ms; a busy machine may take longer


@pytest.mark.parametrize("size", [8, 40])  # as it is, and shrunk while it is decoded
@pytest.mark.parametrize(
    "mode, options", [("RGB", {"subsampling": s}) for s in (0, 1, 2)] + [("L", {}), ("CMYK", {})]
)
def test_jpegs_have_the_same_pixels_with_and_without_simplejpeg(size, mode, options, monkeypatch):
    pytest.importorskip("simplejpeg")
    smooth = Pillow.fromarray(NOISE).resize((61, 45), Pillow.Resampling.BICUBIC).convert(mode)
    files = [png(smooth, "JPEG", **options), png(smooth, "JPEG", progressive=True, **options)]
    quick = [Image(size, 3).decode(file) for file in files]
    monkeypatch.setattr(_pixels, "simplejpeg", None)
    for file, value in zip(files, quick):
        np.testing.assert_array_equal(Image(size, 3).decode(file), value)


def test_large_maps_are_multiplied_in_blocks():
    rng = np.random.default_rng(0)
    planes = rng.random((3, 150, 130), dtype=np.float32)
    rows = _maps.resampling_matrix(150, 10.0, 120.5, 140, sigma=1.5, flip=True)
    columns = _maps.resampling_matrix(130, 0.0, 130.0, 70)
    np.testing.assert_allclose(
        _maps.apply_maps(planes, rows, columns), rows @ planes @ columns.T, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(61, 45), (61, 45, 3)])
@pytest.mark.parametrize("size", [8, 50, 90])
def test_resizing_is_pillows_but_for_one_level(shape, size):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    wanted = Pillow.fromarray(picture).resize((size, size), Pillow.Resampling.BILINEAR)
    image = Image(size, len(shape) if len(shape) == 3 else 1)
    for raw in (picture, Pillow.fromarray(picture), png(Pillow.fromarray(picture))):
        value = image.decode(raw)
        apart = np.abs(value.astype(int) - np.atleast_3d(wanted).transpose(2, 0, 1))
        assert apart.max() <= 1


def test_a_weak_view_of_bytes_is_that_of_floats_but_for_rounding():
    image = Image(96, 3)
    value = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    for seed in range(20):
        whole, floats = (
            image.augment(v, "weak", np.random.default_rng(seed))
            for v in (value, value.astype(np.float32))
        )
        assert whole.dtype == np.uint8 and np.abs(whole - floats).max() < 1.1


@pytest.mark.parametrize(
    ("side", "size", "tile"),
    [
        (5, 8, 4), (8, 8, 4), (28, 28, 4), (30, 32, 4), (32, 32, 4), (47, 48, 6), (64, 64, 8),
        (96, 96, 8), (112, 112, 8), (128, 128, 16), (224, 224, 16), (512, 224, 16), (4000, 224, 16),
    ],
)  # fmt: skip
def test_pictures_are_read_at_their_own_size(side, size, tile):
    rng = np.random.default_rng(0)
    files = [png(Pillow.fromarray(rng.integers(0, 255, (side, side + 9), np.uint8)))] * 2
    image = Image.infer(files)
    assert (image.size, image.tile, image.channels) == (size, tile, 1)
    assert (image.size // image.tile) ** 2 <= 256


def test_a_size_of_ones_own_keeps_the_default_patch():
    assert (Image.infer([NOISE], size=96).patch, Image.infer([NOISE], size=96).tile) == (0, 12)
    photo = Image.infer([png(Pillow.fromarray(NOISE).resize((300, 300)))], patch=20)
    assert (photo.size, photo.patch) == (220, 20)
    with pytest.raises(AmodalError, match="image.patch must be a whole number, got 'big'"):
        Image.infer([NOISE], patch="big")


def test_the_comment_says_what_bounds_the_size_and_how_to_change_it():
    large = [png(Pillow.fromarray(NOISE).resize((800, 512)), "JPEG")] * 3
    text = Image.infer(large).comment(large)
    assert "224 pixels a side, 196 tokens" in text and "a bound of the cost" in text
    assert "the median picture has 512" in text and "size = 512, patch = 32" in text
    assert "what the median picture has (64)" in Image.infer([NOISE]).comment([NOISE])
    assert Image(32).comment([]) == "size: 32 pixels a side, 64 tokens a picture, (size / patch)^2"


def test_large_jpegs_are_shrunk_while_they_are_decoded(monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    seen = []
    decode = simplejpeg.decode_jpeg

    def watched(*args, **options):
        seen.append(decode(*args, **options))
        return seen[-1]

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    file = png(Pillow.fromarray(NOISE).resize((301, 203)), "JPEG")
    for size, shape in ((25, (51, 76)), (50, (102, 151)), (51, (203, 301)), (200, (203, 301))):
        assert Image(size).decode(file).shape == (3, size, size)
        assert seen.pop().shape[:2] == shape


def test_crop_is_a_view_of_pictures_without_colours():
    image = Image(96, 3)
    value = np.zeros((3, 96, 96), np.uint8)
    value[0], value[1] = 200, np.arange(96)
    spans = []
    for seed in range(40):
        view = image.augment(value, "crop", np.random.default_rng(seed))
        assert view.shape == value.shape and (view[0] == 200).all() and (view[2] == 0).all()
        spans.append(np.ptp(view[1].astype(int)) / 95)
    assert min(spans) < 0.55 and max(spans) > 0.9  # a weak view shows at least 0.6 of the area
    with pytest.raises(AmodalError, match="Did you mean strong"):
        make("text").augment(np.zeros(3, np.uint8), "strng", np.random.default_rng(0))


def test_the_two_views_of_byol_differ_in_blur_and_solarization():
    """Table 6 of arXiv:2006.07733."""
    from amodal.modalities.shared import image_views

    one, two = (image_views.VIEWS[v] for v in ("blurred", "solarized"))
    assert (one.blur, one.solarize, two.blur, two.solarize) == (1.0, 0.0, 0.1, 0.2)
    assert one.area == two.area == (0.08, 1.0)
    assert one.jitter == two.jitter == image_views.Jitter(0.4, 0.4, 0.2, 0.1)
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[None].repeat(3, 0)
    image = make("image", size=32)
    for view in ("blurred", "solarized"):
        for seed in range(20):
            out = image.augment(board, view, np.random.default_rng(seed))
            assert out.dtype == np.uint8 and out.shape == board.shape


def test_the_views_of_slip_are_those_of_its_authors():
    """Crops of arXiv:2112.12750: from .5 on for language, from .08 on for SimCLR."""
    from amodal.modalities.shared import image_views

    words, simclr, small = (image_views.VIEWS[v] for v in ("half", "simclr", "unblurred"))
    assert words == image_views.ImageView((0.5, 1.0))
    assert simclr.area == small.area == (0.08, 1.0) and (simclr.blur, small.blur) == (0.5, 0.0)
    assert simclr.jitter == small.jitter == image_views.Jitter(0.4, 0.4, 0.4, 0.1)
    assert [make("text").known_view(v) for v in ("half", "simclr")] == ["weak", "strong"]


def test_the_view_of_alexnet_is_a_square_of_227_of_256_pixels():
    image, rng = make("image", size=256, channels=1, flip=True), np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(256, dtype=np.float32)[None, None], (1, 256, 256)).copy()
    starts = set()
    for _ in range(20):
        row = np.sort(image.augment(ramp, "alexnet", rng)[0, 128])  # a flip turns it round
        assert row[-1] - row[0] == pytest.approx(226, abs=1.5)
        starts.add(round(float(row[0])))
    assert len(starts) > 5 and max(starts) <= 29
    assert make("text").known_view("alexnet") == "weak"


def test_the_two_views_of_lejepa_differ_in_what_they_show():
    """The table of the repository of arXiv:2511.08544."""
    from amodal.modalities.shared import image_views

    large, small = (image_views.VIEWS[v] for v in ("global", "local_solarized"))
    assert (large.area, small.area) == ((0.3, 1.0), (0.05, 0.3))
    assert large.jitter == small.jitter == image_views.Jitter(0.4, 0.4, 0.2, 0.1)
    assert (large.blur, large.solarize) == (small.blur, small.solarize) == (0.5, 0.2)
    image, value = make("image", size=32, patch=4), np.zeros((3, 32, 32), np.uint8)
    shapes = [image.augment(value, v, np.random.default_rng(0)).shape for v in image.views]
    small_views = {v for v, shape in zip(image.views, shapes) if shape == (3, 16, 16)}
    halves = {"dinov3_local", "dinov3_half", "dinov3_half_solarized"}
    assert small_views == halves | {"local", "local_solarized", "ibot_local", "dinov2_local"}
    assert make("text").known_view("global") == "strong"
    assert make("text").known_view("local_solarized") == "local"


@pytest.mark.parametrize(
    "name, large, small", [("ibot", 0.25, (0.05, 0.25)), ("dinov2", 0.32, (0.05, 0.32))]
)
def test_the_three_views_of_ibot_and_dinov2(name, large, small):
    """The README and `main_ibot.py` of bytedance/ibot; the configurations and `augmentations.py` of
    facebookresearch/dinov2."""
    from amodal.modalities.shared import image_views

    first, second, local = (image_views.VIEWS[name + end] for end in ("", "_solarized", "_local"))
    assert first.area == second.area == (large, 1.0) and local.area == small
    assert (first.blur, second.blur, local.blur) == (1.0, 0.1, 0.5)
    assert (first.solarize, second.solarize, local.solarize) == (0.0, 0.2, 0.0)
    colours = image_views.Jitter(0.4, 0.4, 0.2, 0.1)
    assert first.jitter == second.jitter == local.jitter == colours
    text = make("text")
    assert [text.known_view(name + end) for end in ("", "_solarized", "_local")] == [
        "strong",
        "strong",
        "local",
    ]


def test_the_views_of_dinov3():
    """The configurations of facebookresearch/dinov3: those of DINOv2 without mirror images."""
    from amodal.modalities.shared import image_views

    for end in ("", "_solarized", "_local"):
        ours, before = (image_views.VIEWS[name + end] for name in ("dinov3", "dinov2"))
        assert ours == dataclasses.replace(before, flips=False)
    image, text = make("image", size=32, patch=4), make("text")
    value = np.zeros((3, 32, 32), np.uint8)
    sides = {
        v: image.augment(value, v, np.random.default_rng(0)).shape[1]
        for v in image.views
        if v.startswith("dinov3_")
    }
    assert sides == {
        "dinov3_solarized": 32,
        "dinov3_local": 16,
        "dinov3_half": 16,
        "dinov3_half_solarized": 16,
        "dinov3_quarter": 8,
        "dinov3_gram": 32,
        "dinov3_gram_solarized": 32,
    }
    assert text.known_view("dinov3_gram") == text.known_view("dinov3_half") == "strong"
    assert text.known_view("dinov3_quarter") == "local"


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("end", ["", "_solarized"])
def test_a_gram_teacher_sees_the_crop_of_the_student_without_its_colours(side, end):
    image = make("image", size=side, patch=8)
    ramp = np.linspace(0, 200, side)
    value = np.stack([ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None], 0 * ramp + 100
                      + 0 * ramp[:, None]]).astype(np.float32)  # fmt: skip
    for seed in range(6):
        large = image.augment(value, f"dinov3_gram{end}", np.random.default_rng(seed))
        plain = dataclasses.replace(image_views_of(f"dinov3_half{end}"), is_clean=True)
        small = augment_as(image, value, plain, np.random.default_rng(seed))
        # each colour is a coordinate: the middle and the corners are at the same place
        np.testing.assert_allclose(large.mean((1, 2)), small.mean((1, 2)), atol=2.0)
        np.testing.assert_allclose(np.ptp(large, (1, 2)), np.ptp(small, (1, 2)), atol=0.12 * 200)
        assert abs(large[2] - 100).max() < 1e-3  # as it is
    shown = image.augment(value, f"dinov3_half{end}", np.random.default_rng(0))
    assert shown.shape[1] * 2 == large.shape[1]


def image_views_of(name):
    from amodal.modalities.shared import image_views

    return image_views.VIEWS[name]


def augment_as(image, value, view, rng):
    """A view that has no name."""
    from amodal.modalities.shared import image_views

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(image_views.VIEWS, "weak", view)
        return image.augment(value, "weak", rng)


def test_the_view_of_i_jepa_is_a_crop_and_no_mirror_image():
    """The configurations of facebookresearch/ijepa: crops of 30-100 %, no flips, no colours."""
    image, rng = make("image", size=32, patch=4, channels=1), np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 250, 32), (1, 32, 1)).astype(np.float32)
    widths = []
    for _ in range(60):
        row = image.augment(ramp, "i_jepa", rng)[0, 16]
        assert row[-1] > row[0]
        widths.append((row[-1] - row[0]) / 250)
    assert 0.4 < min(widths) < 0.7 and max(widths) > 0.9
    assert any(
        row[-1] < row[0] for row in (image.augment(ramp, "crop", rng)[0, 16] for _ in range(9))
    )
    assert make("text").known_view("i_jepa") == "weak"


def test_bright_values_are_turned_round():
    from amodal.modalities.shared.image_views import solarized

    values = np.float32([[[0, 100, 127, 128, 200, 255, 300]]])
    assert solarized(values, 0, 255)[0, 0].tolist() == [0, 100, 127, 127, 55, 0, 0]
    image, white = make("image", size=16, channels=1), np.full((1, 16, 16), 255, np.uint8)
    seen = [image.augment(white, "solarized", np.random.default_rng(i)).mean() for i in range(300)]
    # jitter darkens white to 153 at least, so whatever is darker has been turned round
    assert 0.1 < np.mean(np.array(seen) < 110) < 0.3
    plain = [image.augment(white, "blurred", np.random.default_rng(i)).mean() for i in range(300)]
    assert min(plain) > 140


def test_fields_that_do_not_make_a_view_make_a_strong_one():
    assert make("text").known_view("solarized") == "strong"
    assert make("image").known_view("solarized") == "solarized"
    assert make("text").known_view("weak") == "weak"
    with pytest.raises(AmodalError, match="Did you mean solarized"):
        make("image").augment(np.zeros((3, 32, 32), np.uint8), "solarised", None)


def test_headers_of_huge_pictures_are_read_without_a_word_of_pillow():
    huge = bomb(10000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "10000 x 10000" in _pixels.summary([huge])
        assert short_side(huge) == 10000


def test_numbers_up_to_255_are_no_pictures_of_a_field_of_bytes():
    generator = np.random.default_rng(0)
    photos = [generator.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(4)]
    field = Image.infer(photos)
    plain = field.decode(photos[0]) / np.float32(255)
    for other in (
        photos[0].astype(np.float32),
        photos[0].astype(np.int64),
        photos[0].tolist(),
        photos[0] // 8 * 1.0,
    ):
        with pytest.raises(
            BadValue,
            match="from 0 to .*, and those of this field from 0 to 1, to which bytes are scaled",
        ):
            field.decode(other)
    np.testing.assert_allclose(field.decode(photos[0] / 255), plain, atol=1e-5)
    # numbers of another unit are read as they are where the field has them
    floats = [photo.astype(np.float32) for photo in photos]
    assert Image.infer(floats).decode(floats[0]).max() > 200
    # and so are a bright spot, and a few large numbers in a dark picture
    spot = np.full((16, 16, 3), 0.4, np.float32)
    spot[8, 8] = 60
    assert field.decode(spot).max() == 60

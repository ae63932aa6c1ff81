"""From patches to pixels: grids, frames, rasters, and the space of texts."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch.nn.functional import interpolate, normalize

from amodal.core import AmodalError, Tokens
from amodal.maps.items import MAX_NAME, file_name
from amodal.maps.laying import label_map, on_picture
from amodal.maps.queries import read_queries
from amodal.modalities import BadValue, make
from amodal.modalities.shared.frames import Frame, whole_picture
from amodal.modalities.shared.rasters import class_raster, nearest_pixels, picture_sides
from amodal.nn.patch_vectors import patch_features, patch_vectors, token_grids
from amodal.nn.pooling import POOLS
from tests.methods.bench import batch, method


def test_values_are_bilinear_between_the_middles_of_patches():
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    laid = on_picture(values, Frame(0, 0, 16, 20), 16, 20)
    whole = interpolate(torch.from_numpy(values)[None], (16, 20), mode="bilinear")[0]
    np.testing.assert_allclose(laid, whole.numpy(), atol=1e-5)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad", "native"])
def test_a_map_lies_where_the_value_was_taken_from(fit):
    """A bright square at a known place of a wide picture is bright there after decoding and back."""
    modality = make("image", size=32, channels=3, patch=4, fit=fit)
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[12:24, 48:60] = 255
    value = modality.decode(picture)
    whole, frame = whole_picture(modality, picture, 1000)
    assert whole.shape == (3, 48, 96) and (whole.transpose(1, 2, 0) == picture).all()
    small, _ = whole_picture(modality, picture, 48)
    assert small.shape == (3, 24, 48)
    laid = on_picture(value[:1].astype(np.float32), frame, 48, 96)[0]
    outside = np.isnan(laid)
    assert outside.any() == (fit == "crop")
    if fit == "crop":
        assert outside[:, :24].all() and outside[:, 72:].all() and not outside[:, 24:72].any()
    assert (np.nan_to_num(laid) > 127).mean() == pytest.approx(144 / 48 / 96, rel=0.35)
    rows, columns = np.nonzero(np.nan_to_num(laid) > 127)
    assert abs(rows.mean() - 17.5) < 1 and abs(columns.mean() - 53.5) < 1


def test_outside_of_the_frame_a_pixel_has_no_label():
    laid = np.array([[[0.0, 2, np.nan]], [[1, 1, np.nan]]], np.float32)
    assert label_map(laid, None).tolist() == [[1, 0, 255]]
    assert label_map(laid, 1.5).tolist() == [[255, 0, 255]]
    assert label_map(laid[:1], 1.0).tolist() == [[0, 1, 255]]


def tokens_of(positions, names=("image",)):
    count = len(positions)
    place = torch.tensor(positions, dtype=torch.float32)
    x = torch.arange(count, dtype=torch.float32)[:, None]
    zero = torch.zeros(count, dtype=torch.int64)
    return Tokens(x, zero, zero, place, names, 2)


def test_grids_are_in_reading_order_of_any_shape():
    place = [(0, y, x) for y in (0.5, 1.5) for x in (0, 1, 2)]
    (grid,) = token_grids(tokens_of(place)).values()
    assert grid[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    (square,) = token_grids(tokens_of([(i, 0, 0) for i in range(9)])).values()  # of one's own
    assert square.shape == (3, 3, 1)
    assert not token_grids(tokens_of([(i, 0, 0) for i in range(6)]))
    assert not token_grids(tokens_of([(0, 0, 0), (0, 1, 1), (0, 2, 1)]))


def test_patches_of_a_mean_are_the_parts_of_the_vector_of_the_picture():
    m = method("clip", sources=("picture", "words"), width=8)
    rows = batch(("plain",), sources=("picture", "words"))
    with torch.no_grad():
        tokens = patch_vectors(m.encoder, rows, "picture")
        plain = patch_features(m.encoder, rows, "picture")
        head = m.encoder.heads["picture"]
        whole = m.encoder(rows)["picture"]
    torch.testing.assert_close(tokens.x, normalize(head(plain.x), dim=1))
    for n, row in enumerate(whole.rows.tolist()):
        mean = head(plain.x[plain.row == row]).mean(0)
        torch.testing.assert_close(mean, whole.flat[n])


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_a_patch_alone_is_pooled_into_its_own_vector(pool):
    made = POOLS[pool](8)
    tokens = tokens_of([(0, y, x) for y in range(2) for x in range(3)])
    tokens = tokens.with_x(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    single = made.single(tokens)
    assert single.shape == (6, 8)
    for n in range(6):
        one = tokens.keep(torch.arange(6) == n)
        expected = one.x[0] if pool == "cls" else made(one).flat[0]
        torch.testing.assert_close(single[n], expected)


def test_dinotxt_reads_patches_behind_its_tower():
    m = method("dinotxt", sources=("picture", "words"))
    rows = batch(("plain",), sources=("picture", "words"))
    with torch.no_grad():
        z = m.patch_vectors(rows, "picture")
    assert z.x.shape[1] == m.encoder.width and not any(n.startswith("cls") for n in z.names)
    query = torch.arange(2.0 * m.encoder.width)[None]
    assert m.patch_queries(query, "picture")[0, 0] == m.encoder.width
    with pytest.raises(AmodalError, match="locked"):
        m.patch_vectors(rows, "words")
    with pytest.raises(AmodalError, match="opened without its method"):
        patch_vectors(m.encoder, rows, "picture")


def test_the_other_methods_that_messages_name_take_patches_to_texts():
    from amodal.maps.queries import EXAMPLES

    for name in EXAMPLES:
        m = method(name, sources=("picture", "words"))
        assert {"picture", "words"} <= {*m.encoder.heads}, name


def png(array, palette=False):
    picture = Pillow.fromarray(array)
    if palette:
        picture.putpalette([*range(256)] * 3)
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return packed.getvalue()


def test_rasters_are_the_numbers_of_the_file():
    numbers = np.array([[0, 3], [7, 255]], np.uint8)
    for raw in (
        png(numbers),
        png(numbers, palette=True),
        numbers,
        numbers[..., None],
        numbers[None],
    ):
        assert class_raster(raw).tolist() == numbers.tolist()
    assert class_raster(numbers > 2).tolist() == [[0, 1], [1, 1]]
    for raw, words in (
        (png(np.zeros((4, 4, 3), np.uint8)), "one channel or a palette"),
        (np.zeros((4, 4)), "whole numbers"),
        (np.full((4, 4), -1), "begin at 0"),
        (b"text", "not a picture"),
    ):
        with pytest.raises(BadValue, match=words):
            class_raster(raw)


def test_numbers_are_not_mixed_when_a_raster_is_resized():
    raster = np.kron(np.array([[1, 9], [5, 3]]), np.ones((3, 3), int))
    assert nearest_pixels(raster, 2, 2).tolist() == [[1, 9], [5, 3]]
    assert nearest_pixels(np.array([[1, 9]]), 2, 4).tolist() == [[1, 1, 9, 9]] * 2


def test_sides_of_pictures():
    assert picture_sides(png(np.zeros((4, 7, 3), np.uint8))) == (4, 7)
    assert picture_sides(np.zeros((4, 7))) == (4, 7) == picture_sides(np.zeros((4, 7, 3)))
    assert picture_sides(np.zeros((3, 8, 9))) == (8, 9) == picture_sides(Pillow.new("L", (9, 8)))


def test_queries_as_they_are_written(tmp_path):
    a, b = read_queries("a cat|cats, 7=a tree", ["a photo of {}", "{}"])
    assert (a.name, a.number, b.name, b.number) == ("a cat", 0, "a tree", 7)
    assert a.prompts == ("a photo of a cat", "a cat", "a photo of cats", "cats")
    (tmp_path / "q.txt").write_text("one, with a comma\n\n2 = two\n", encoding="utf-8")
    first, second = read_queries(str(tmp_path / "q.txt"))
    assert first.name == "one, with a comma" and (second.name, second.number) == ("two", 2)
    with pytest.raises(AmodalError, match="cannot read queries"):
        read_queries(tmp_path / "gone.txt")


def test_names_of_files_are_different_and_within_the_folder():
    names = [file_name(k) for k in ("a/b", "a_b", "..", "", "x" * 500, "x" * 499 + "y")]
    assert len(set(names)) == 6 - 1  # ".." and "" are both names of nothing
    assert all("/" not in n and not n.startswith(".") and len(n) <= MAX_NAME for n in names)

"""Files of points whose numbers may mean more than one thing: what they are taken for."""

import numpy as np
import pytest

from amodal import modalities
from amodal.modalities import BadValue
from amodal.modalities.shared import points_files

from .cloud_files import text

SQUARE = ("0 0 0", "1 0 0", "1 1 0", "0 1 0")


def test_columns_of_other_lengths_are_a_sentence():
    with pytest.raises(BadValue, match="3, 2, 3 numbers of x, y and z"):
        points_files.read({"x": [1, 2, 3], "y": [1, 2], "z": [1, 2, 3]})


def test_places_that_were_not_measured_are_left_out_and_counted():
    """Depth cameras write (0, 0, 0) for them."""
    rng = np.random.default_rng(0)
    measured, label = rng.normal(size=(960, 3)), np.arange(1000.0)
    raw = {"points": np.concatenate([np.zeros((40, 3)), measured]), "label": label}
    cloud = points_files.read(raw)
    np.testing.assert_array_equal(cloud.points, measured)
    assert cloud.unmeasured == 40 and cloud.attributes["classification"][0] == 40
    points = modalities.kind("points").infer([raw])
    assert "4.0% of points at (0, 0, 0) left out" in points.summarize([raw], [points.decode(raw)])


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((200, 3)),
        np.concatenate([np.zeros((5, 3)), np.ones((50, 3))]),
        np.random.default_rng(0).integers(0, 3, (900, 3)),  # a lattice, of which it is a place
        np.concatenate([np.zeros((1, 3)), np.random.default_rng(0).normal(size=(200, 3))]),
    ],
)
def test_the_origin_is_a_place_where_others_are_as_full(raw):
    assert len(points_files.read(raw).points) == len(raw)


@pytest.mark.parametrize(
    ("top", "end"), [(0.4, 1), (1.0, 1), (1.0001, 1), (1.02, 255), (255.3, 255), (256 * 16, 65535)]
)
def test_colours_of_a_file_end_at_one_255_or_65535_whatever_is_rounded(top, end):
    columns = {name: np.array([0.0, top]) for name in ("red", "green", "blue")}
    cloud = points_files.read({"points": np.eye(3)[:2], **columns})
    expected = np.float32(min(top / end, 1))
    assert cloud.attributes["red"].tolist() == [0, expected]


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("COFF", ("255 0 0 255", "0 51 0 255", "0 0 255 255", "9 9 9 255")),
        ("COFF", ("1.0 0 0 1", "0 0.2 0 1", "0 0 1 1", ".5 .5 .5 1")),
        ("CNOFF", ("0 0 1 255 0 0", "0 0 1 0 51 0", "0 0 1 0 0 255", "0 0 1 9 9 9")),
    ],
)
def test_colours_of_off_are_read(kind, rest):
    rows = [f"{place} {more}" for place, more in zip(SQUARE, rest)]
    for faces in ([], ["4 0 1 2 3"]):
        text = "\n".join(["# Colours", kind, f"4 {len(faces)} 0", *rows, *faces])
        cloud = points_files.read(text.encode())
        np.testing.assert_allclose(cloud.attributes["red"][:3], [1, 0, 0])
        np.testing.assert_allclose(cloud.attributes["green"][:3], [0, 0.2, 0])
    with pytest.raises(BadValue, match="a point has no colour"):
        points_files.read(f"{kind}\n1 0 0\n0 0 0\n".encode())


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_axes_of_ply_may_be_capitals(form):
    places = np.array([[0, 0, 1], [1, 0, 0], [1, 1, 0]], "<f4")
    body = places.tobytes() if form != "ascii" else text(places)
    head = ["ply", f"format {form} 1.0", "element vertex 3"]
    head += [*(f"property float {axis}" for axis in "XYZ"), "end_header", ""]
    cloud = points_files.read("\n".join(head).encode() + body)
    np.testing.assert_array_equal(cloud.points, places)


def test_obj_may_begin_with_long_comments():
    cloud = points_files.read(b"# scan\n\n" * 9000 + b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert len(cloud.points) == 3 and len(cloud.faces) == 1


@pytest.mark.parametrize(
    "head",
    [
        "# x y z classification",
        "//X Y Z Classification",
        "# x,y,z,label\n# made by hand",
        "# made by hand\n# x y z label\n2",
        '"x","y","z","label"',
        "x[m];y[m];z[m];label",
    ],
)
def test_names_of_columns_may_be_a_comment_or_in_quotes(head):
    cloud = points_files.read(f"{head}\n1 0 0 2\n0 1 0 6\n".encode())
    assert set(cloud.attributes) == {"classification"}
    assert cloud.attributes["classification"].tolist() == [2, 6]


@pytest.mark.parametrize(
    "data",
    [
        b"x;y;z\n1,5;2,5;3,25\n4;5,5;6\n",
        b"1,5;2,5;3,25;\n4;5,5;6;\n",
        b"1,5\t2,5\t3,25\n4,0\t5,5\t6,0\n",
        b"1.5, 2.5, 3.25\n4, 5.5, 6\n",
        b"# x, y, z in metres\n1.5;2.5;3.25\n4;5.5;6\n",
    ],
)
def test_commas_are_decimals_or_lie_between_columns(data):
    assert points_files.read(data).points.tolist() == [[1.5, 2.5, 3.25], [4, 5.5, 6]]


def test_a_cell_without_a_number_is_a_missing_one():
    cloud = points_files.read(b"x,y,z,label,intensity\n0,0,1,,5\n1,0,0,,\n")
    assert np.isnan(cloud.attributes["classification"]).all()
    np.testing.assert_array_equal(cloud.attributes["intensity"], [5, np.nan])

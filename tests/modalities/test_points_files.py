"""Files of points and of meshes: what is read of each, and what of damaged ones."""

import contextlib
import io
import json
import signal
import struct
import warnings

import numpy as np
import pytest

from amodal import modalities
from amodal.core import AmodalError
from amodal.modalities import BadValue
from amodal.modalities.shared import points_files
from amodal.modalities.shared.points_headers import declared
from amodal.modalities.shared.points_write import ply_bytes
from amodal.modalities.shared.requests import Limits, TooLarge

from .cloud_files import FAR, FILES, MESHES, QUAD, las, laspy, scan, text, trimesh

every = pytest.mark.parametrize("name", FILES)


@every
def test_files_are_what_they_were_made_of(name):
    cloud = points_files.read(FILES[name])
    assert (cloud.faces is not None) == (name in MESHES)
    assert cloud.y_up == name.startswith(("obj", "glb"))
    if name in MESHES - {"ply of a quad"}:
        np.testing.assert_allclose(np.ptp(cloud.points, 0), (1, 2, 3))
        assert len(cloud.faces) == 12
    if name in ("las", "laz", "laz of layers", "xyz"):
        np.testing.assert_allclose(np.sort(cloud.points, 0), np.sort(scan(), 0), atol=1e-3)
    names = {
        "las": {"intensity", "classification"},
        "laz": {"intensity", "classification"},
        "laz of layers": {"intensity", "classification"},
        "csv": {"intensity", "classification"},
        "pts": {"intensity", "red", "green", "blue"},
        "ply of points": {"red", "green", "blue"},
    }
    assert set(cloud.attributes) == names.get(name, set())
    if name == "ply of points":
        np.testing.assert_allclose(cloud.attributes["green"], 128 / 255, rtol=1e-5)


def polygons(faces, order="<", extra=b""):
    """A binary PLY of five corners and faces of any number of them, with a colour each."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 2, 1]], f"{order}f4")
    form = "binary_little_endian" if order == "<" else "binary_big_endian"
    head = [b"ply", b"format " + form.encode() + b" 1.0", b"element vertex 5"]
    head += [f"property float {axis}".encode() for axis in "xyz"]
    head += [b"element face %d" % len(faces), b"property list uchar int vertex_indices"]
    rows = [struct.pack(f"{order}B{len(f)}i", len(f), *f) + extra for f in faces]
    head += [b"property uchar red"] * bool(extra)
    return b"\n".join([*head, b"end_header", corners.tobytes() + b"".join(rows)])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extra", [b"", b"\7"])
@pytest.mark.parametrize(
    ("faces", "triangles"),
    [
        ([(0, 1, 2), (0, 2, 3)], {(0, 1, 2), (0, 2, 3)}),
        ([(0, 1, 2, 3), (2, 3, 4)], {(0, 1, 2), (0, 2, 3), (2, 3, 4)}),
        ([(2, 3, 4), (0, 1, 2, 3)], {(0, 1, 2), (0, 2, 3), (2, 3, 4)}),
        ([(0, 1, 2, 3, 4)], {(0, 1, 2), (0, 2, 3), (0, 3, 4)}),
    ],
)
def test_faces_of_any_number_of_corners(faces, triangles, order, extra):
    data = polygons(faces, order, extra)
    cloud = points_files.read(data)
    assert set(map(tuple, cloud.faces.tolist())) == triangles and len(cloud.points) == 5
    for length in range(len(data) - 30, len(data)):
        with pytest.raises(BadValue):
            points_files.read(data[:length])


def test_an_element_without_properties_has_no_bytes():
    data = polygons([(0, 1, 2, 3), (2, 3, 4)])
    empty = b"element nothing 99999999999999999999\nend_header"
    cloud = points_files.read(data.replace(b"end_header", empty))
    assert len(cloud.faces) == 3


@every
def test_headers_say_how_much_there_is(name):
    found, cloud = declared(FILES[name]), points_files.read(FILES[name])
    if found.points and not name.startswith("stl"):
        assert found.points >= len(cloud.points) - 1
    if found.faces and cloud.faces is not None and name != "ply of a quad":
        assert found.faces == len(cloud.faces)


@every
def test_endings_and_first_bytes_say_the_kind(name, tmp_path):
    path = tmp_path / f"a.{name.split()[0]}"
    path.write_bytes(FILES[name])
    kind = "series" if name == "csv" else "points"
    assert modalities.guess([path]) == kind
    if name.split()[0] in ("ply", "las", "laz", "glb", "off"):
        assert modalities.guess([FILES[name]]) == "points"


def test_what_others_read_stays_theirs():
    every = modalities.suffixes()
    assert every[".txt"] == "text" and every[".npy"] == "series" and every[".csv"] == "series"
    assert modalities.guess([b"OFFER of the day"]) == "text"
    assert modalities.guess([b"plywood is wood"]) == "text"


def test_columns_of_text_mean_what_their_number_and_values_say():
    rng = np.random.default_rng(0)
    xyz, unit = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    colour = rng.integers(0, 256, (9, 3)).astype(float)

    def names(*columns):
        return set(points_files.read(text(np.concatenate(columns, 1))).attributes)

    assert names(xyz) == set()
    assert names(xyz, colour[:, :1]) == {"intensity"}
    assert names(xyz, colour) == {"red", "green", "blue"}
    assert names(xyz, unit) == {"nx", "ny", "nz"}
    assert names(xyz, colour, unit) == {"red", "green", "blue", "nx", "ny", "nz"}
    with pytest.raises(BadValue, match="shape .9, 5. .* no cloud of points"):
        names(xyz, unit[:, :2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n", "atoms of a molecule"),
        (b"1 2 3\n4 5\n", "not lines of numbers such as x y z"),
        (b"9\n1 2 3\n4 5 6\n", "truncated: 9 points, and 2 lines"),
        (b"# nothing\n", "0 points"),
        (b"2\x1f\n5 7", "truncated: 2 points, and 1 lines"),
        (QUAD.replace(b"ascii", b"binary"), "a PLY of the format 'binary': ascii, binary_l"),
        (QUAD.replace(b"list uchar int vertex_indices", b"list"), "the line 'property list'"),
        (QUAD.replace(b"uchar int vertex_indices", b"uchar vertex_indices"), "of its header"),
        (b"nan\n1 2\n", "shape .1, 2."),
        (b"x y z intensity\n0 0 1 7 2\n", "has 4 names, and there are 5 columns"),
        (b"# x y z label\n0 0 1 7 2 3\n", "has 4 names, and there are 6 columns"),
        (b"# lon lat h label\n0 0 1 7\n", "it has lon, lat, h, label"),
        (b"x y z x\n0 0 1 7\n", "two columns are called x"),
        (b"1,5 2,5 3,5\n", "commas and spaces in '1,5 2,5 3,5'"),
        (b"1.5;2,5;3,5\n", "commas and semicolons in '1.5;2,5;3,5'"),
        (b"inf\n1 2 3 4 5\n", "shape .1, 5."),
        (b"nan nan nan\n", "no point with a place"),
        (b"1 2 1e39\n", "no length in metres"),
        (b"\xff\xfe\0\0" * 40, "neither points nor a mesh"),
        (b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "1 faces without any area"),
        (QUAD.replace(b"vertex 4", b"vertex 0"), "."),
        (QUAD.replace(b"4 0 1 2 3", b"4 0 1 2 9"), "."),
    ],
)
def test_what_is_wrong_is_a_sentence(data, message):
    with pytest.raises(BadValue, match=message):
        modalities.make("points").decode(data)


@pytest.mark.parametrize("name", ["laz", "laz of layers"])
def test_lengths_within_laz_are_checked_before_room_is_made_for_them(name, monkeypatch):
    """The library makes room for what a file says, and the process ends where there is none."""
    data = FILES[name]
    (start,) = struct.unpack_from("<I", data, 96)
    (table,) = struct.unpack_from("<q", data, start)

    def refused(kind, place, value, message):
        changed = bytearray(data)
        struct.pack_into(kind, changed, place, value)
        with pytest.raises(BadValue, match=message):
            points_files.read(bytes(changed))

    monkeypatch.setattr(laspy, "read", lambda *_, **__: pytest.fail("points were read"))
    refused("<q", start, 2**40, "table of its chunks lies outside")
    refused("<I", table + 4, 2**31, "2,147,483,648 chunks in")
    refused("<I", table + 4, 0, "fewer points than its header promises")
    refused("<16s", 227 + 2 if name == "laz" else 375 + 2, b"other", "does not say how")
    for byte in range(table + 8, len(data)):
        changed = bytearray(data)
        changed[byte] ^= 255
        with contextlib.suppress(BadValue, pytest.fail.Exception):
            points_files.read(bytes(changed))
    if name == "laz of layers":
        first = start + 8 + 36 + 4
        refused("<I", first, 2**31, "layers of 2,147,")


@pytest.mark.parametrize("form", [0, 1, 2, 3, 6, 7, 8])
@pytest.mark.parametrize("extra", [False, True])
def test_every_format_of_points_is_read_from_laz_in_many_chunks(form, extra):
    made = laspy.create(point_format=form, file_version="1.4" if form > 5 else "1.2")
    if extra:
        made.add_extra_dim(laspy.ExtraBytesParams("depth", "float64"))
    points = np.random.default_rng(0).random((120_000, 3))
    made.header.scales = [0.001] * 3
    made.x, made.y, made.z = points.T
    out = io.BytesIO()
    made.write(out, do_compress=True)
    np.testing.assert_allclose(points_files.read(out.getvalue()).points, points, atol=1e-3)


class PanicException(BaseException):
    """Named as what lazrs raises."""


def test_a_panic_of_the_library_is_a_damaged_file_and_an_interrupt_is_not(monkeypatch):
    def raises(kind):
        def read(*_, **__):
            raise kind("index out of bounds")

        monkeypatch.setattr(laspy, "read", read)
        points_files.read(FILES["laz"])

    with pytest.raises(BadValue, match="damaged LAS: index out of bounds"):
        raises(PanicException)
    with pytest.raises(KeyboardInterrupt):
        raises(KeyboardInterrupt)


def las_of(count):
    data = bytearray(FILES["las"])
    struct.pack_into("<I", data, 107, count)
    return bytes(data)


def glb_of(count):
    data = FILES["glb"]
    (length,) = struct.unpack_from("<I", data, 12)
    tree = json.loads(data[20 : 20 + length])
    tree["accessors"][0]["count"] = count
    head = json.dumps(tree).encode()
    head += b" " * (-len(head) % 4)
    whole = struct.pack("<I4s", len(head), b"JSON") + head + data[20 + length :]
    return data[:8] + struct.pack("<I", 12 + len(whole)) + whole


PROMISES = {
    "ply of text": QUAD.replace(b"vertex 4", b"vertex 1000000000"),
    "ply": FILES["ply"].replace(b"vertex 8", b"vertex 1000000000"),
    "ply of faces": FILES["ply"].replace(b"face 12", b"face 1000000000"),
    "las": las_of(10**9),
    "stl": FILES["stl"][:80] + struct.pack("<I", 10**9) + FILES["stl"][84:],
    "off": b"OFF\n1000000000 1 0\n0 0 0\n",
    "glb": glb_of(10**9),
}


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_of_a_billion_points_is_refused_by_the_header_alone(name, monkeypatch):
    for function in ("_by_trimesh", "_las", "_text"):
        monkeypatch.setattr(points_files, function, lambda *_: pytest.fail("points were read"))
    data = PROMISES[name]
    with pytest.raises(BadValue, match="promise|1,000,000,000"):
        modalities.make("points").decode(data)
    with pytest.raises(BadValue):
        modalities.make("points").bounds(data, Limits())


def test_promises_that_fit_no_file_are_truncated_ones():
    with pytest.raises(BadValue, match="truncated PLY: .* 5,000 points"):
        points_files.read(FILES["ply"].replace(b"vertex 8", b"vertex 5000"))
    with pytest.raises(BadValue, match="truncated PLY: 6 lines are promised, and it has 5"):
        points_files.read(QUAD.replace(b"vertex 4", b"vertex 5"))
    with pytest.raises(BadValue, match="truncated OFF: 10 lines are promised, and it has 5"):
        points_files.read(b"OFF\n3 6 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(BadValue, match="no face has a place"):
        points_files.read(b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(BadValue, match="truncated LAS: its header promises 5,000"):
        points_files.read(las_of(5000))


def test_requests_are_bounded_by_what_headers_declare():
    points, limits = modalities.make("points"), Limits(entries=500)
    for name in ("las", "laz", "laz of layers", "ply of points", "xyz"):
        assert points.bounds(FILES[name], Limits()) == FILES[name]
        with pytest.raises(TooLarge, match="points or faces; at most 500"):
            points.bounds(FILES[name], limits)
    with pytest.raises(BadValue, match="zip archives"):
        points.bounds(b"PK\x03\x04zip", limits)
    with pytest.raises(BadValue, match="expected an object or a list"):
        points.bounds("/etc/hostname", limits)
    lists = [[0.0, 0.0, 0.0], [1.0, 0.0, 2.0]]
    for raw in (lists, {"points": lists, "intensity": [1, 2]}):
        assert len(points.decode(points.bounds(raw, limits))) == 2


def test_no_file_may_name_another(tmp_path, monkeypatch):
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd a.png\n", encoding="utf-8")
    path = tmp_path / "a.obj"
    path.write_bytes(b"mtllib a.mtl\nusemtl a\n" + FILES["obj"])
    opened, real = [], open
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    points_files.read(path)
    assert {str(name) for name in opened} <= {str(path)}


def test_parts_of_a_scene_are_at_their_places():
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((1, 1, 1)))
    scene.add_geometry(
        trimesh.creation.box((1, 1, 1)),
        transform=trimesh.transformations.translation_matrix((9, 0, 0)),
    )
    cloud = points_files.read(scene.export(file_type="glb"))
    np.testing.assert_allclose(np.ptp(cloud.points, 0), (10, 1, 1))
    value = modalities.make("points").decode(scene.export(file_type="glb"))
    assert abs(float((value[:, 0] > 0).mean()) - 0.5) < 0.01


def test_attributes_that_a_format_has_room_for_are_there_if_they_were_measured():
    assert not points_files.read(las(scan())).attributes
    whole = las(scan(), red=np.full(600, 65535), green=np.arange(600), blue=np.arange(600))
    assert points_files.read(whole).attributes["red"].max() == 1
    eight = las(scan(), red=np.full(600, 255), green=np.arange(600) % 256, blue=np.zeros(600))
    assert points_files.read(eight).attributes["red"].max() == 1


class Hangs(BaseException):
    pass


@every
def test_a_damaged_file_is_bad_or_read_and_nothing_else(name, capfd):
    """Never a traceback, a log of one, a warning, or a hang."""

    def stop(*_):
        raise Hangs

    data, points = FILES[name], modalities.make("points", channels=("nx", "ny", "nz", "intensity"))
    rng, before = np.random.default_rng(0), signal.signal(signal.SIGALRM, stop)
    try:
        for i in range(90):
            changed = bytearray(data)
            if i % 3 == 0:
                changed = changed[: int(rng.integers(1, len(data)))]
            elif i % 3 == 1:
                changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            else:
                for place in rng.integers(0, min(len(data), 300), 4):
                    changed[place] = int(rng.integers(256))
            signal.setitimer(signal.ITIMER_REAL, 20)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    value = points.decode_finite(bytes(changed))
            except BadValue as error:
                assert str(error)
                continue
            assert value.shape[1] == 7 and len(value) and np.isfinite(value[:, :3]).all()
            points.collate([value])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    shown = capfd.readouterr()
    assert not shown.err and not shown.out


@pytest.mark.parametrize(
    "name",
    [
        "ply",
        "ply of points",
        "las",
        "laz",
        "laz of layers",
        "stl",
        "off",
        "glb",
        "ply of text",
        "stl of text",
    ],
)
def test_a_truncated_file_is_never_a_smaller_cloud(name):
    def size(data):
        cloud = points_files.read(data)
        return len(cloud.points), 0 if cloud.faces is None else len(cloud.faces)

    whole = size(FILES[name])
    for length in np.linspace(1, len(FILES[name]) - 2, 40).astype(int):
        try:
            assert size(FILES[name][:length]) == whole
        except BadValue:
            continue


def test_places_far_from_the_origin_are_not_rounded():
    points = modalities.make("points", points=600)
    value = points.decode(las(scan()))
    wanted = scan() - scan().mean(0)
    np.testing.assert_allclose(np.sort(value, 0), np.sort(wanted, 0), atol=1e-3)
    assert np.abs(FAR).max() > 1e6


def test_what_is_written_is_what_is_read():
    channels = ("red", "green", "blue", "intensity", "nx", "ny", "nz")
    values = np.random.default_rng(0).random((40, 10)).astype(np.float32)
    cloud = points_files.read(ply_bytes(values, channels))
    np.testing.assert_array_equal(cloud.points.astype(np.float32), values[:, :3])
    for i, name in enumerate(channels):
        tolerance = 1 / 255 if name in channels[:3] else 0
        np.testing.assert_allclose(cloud.attributes[name], values[:, 3 + i], atol=tolerance)
    with pytest.raises(AmodalError, match="4 numbers a point"):
        ply_bytes(values, ("intensity",))


def test_furniture_stands_in_metres_as_in_a_home():
    from amodal.data.sets.sweethome3d import POINTS, _shape

    sides = {"width#1": "300", "depth#1": "50", "height#1": "20"}
    mesh = trimesh.creation.box((1, 2, 3)).export(file_type="obj").encode()
    cloud = points_files.read(_shape(mesh, sides, 1))
    assert len(cloud.points) == POINTS and {"nx", "ny", "nz"} == set(cloud.attributes)
    np.testing.assert_allclose(np.ptp(cloud.points, 0), (3, 0.2, 0.5), rtol=0.02)
    # the longest side, which is turned away first, is the width
    turned = _shape(mesh, sides | {"modelRotation#1": "0 0 1 0 1 0 -1 0 0"}, 1)
    np.testing.assert_allclose(
        np.ptp(points_files.read(turned).points, 0), (3, 0.2, 0.5), rtol=0.02
    )
    normals = np.stack([cloud.attributes[n] for n in ("nx", "ny", "nz")], 1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)

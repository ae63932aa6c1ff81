"""Clouds of points: their groups, views, targets, and what is measured of their shape."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal import modalities
from amodal.core import AmodalError, Column
from amodal.modalities import BadValue
from amodal.modalities.shared import points_groups as groups

quick = settings(max_examples=40, deadline=None)


def field(**options):
    return modalities.make("points", **options)


def cloud(count, seed=0, channels=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3 + channels)) * ((1, 2, 3) + (1,) * channels)


def content(points, value):
    """(T, k, 3 + C) of one value, and positions (T, 3)."""
    flat = points.collate([value]).flat
    return flat[:, groups.PLACE :].unflatten(1, (points.neighbours, -1)), flat[:, :3]


@quick
@given(st.integers(1, 300), st.integers(0, 999))
def test_no_order_of_the_points_changes_anything(count, seed):
    points = field(points=100, groups=9, neighbours=6, channels=("intensity",))
    raw = np.round(cloud(count, seed, 1), 1)  # with points that are as near as each other
    shuffled = raw[np.random.default_rng(seed).permutation(count)]
    one, two = points.decode(raw), points.decode(shuffled)
    np.testing.assert_array_equal(one, two)
    assert torch.equal(
        points.collate([one]).flat.nan_to_num(), points.collate([two]).flat.nan_to_num()
    )


def test_so_it_is_of_more_points_than_are_taken():
    points, raw = field(points=64), cloud(5000)
    value = points.decode(raw)
    assert len(value) == 4 * 64
    np.testing.assert_array_equal(value, points.decode(raw[::-1]))
    # a draw without regard to place
    assert np.abs(value.mean(0)).max() < 1e-5
    np.testing.assert_allclose(value.std(0), (1, 2, 3), rtol=0.2)


def test_points_at_one_place_are_taken_in_any_order():
    """Of many at one place, which differ in their channels, some are taken."""
    rng = np.random.default_rng(0)
    raw = np.concatenate(
        [rng.normal(size=(9, 3))[rng.integers(0, 9, 3000)], rng.random((3000, 1))], 1
    )
    raw[rng.random(3000) < 0.1, 3] = np.nan
    points = field(points=64, channels=("intensity",))
    value = points.decode(raw)
    assert len(value) == 4 * 64
    np.testing.assert_array_equal(value, points.decode(raw[rng.permutation(3000)]))


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 1, 1), (-3, 0, 0.5)])
def test_a_place_of_many_points_has_its_share_of_those_that_are_taken(place):
    raw = np.concatenate([cloud(9500), np.full((500, 3), place)])
    taken = raw[groups.in_order(raw, 2000)]
    assert (taken == place).all(1).mean() == pytest.approx(0.05, abs=0.02)


def test_the_origin_does_not_rank_before_all_places():
    clouds = [np.concatenate([np.zeros((1, 3)), cloud(49, seed)]) for seed in range(100)]
    assert np.mean([0 in groups.in_order(points, 1) for points in clouds]) < 0.5


@quick
@given(st.integers(0, 999))
def test_no_order_within_a_group_changes_its_embedding(seed):
    points = field(groups=9, neighbours=6, channels=("intensity",))
    values = points.collate([points.decode(cloud(40, seed, 1))])
    torch.manual_seed(0)
    module = points.tokenizer(24).double()

    def embedded(flat):
        return module(Column(type(values)(flat, values.lengths), torch.zeros(1).long()), "f", 1).x

    flat = values.flat.double()
    inside = flat[:, groups.PLACE :].unflatten(1, (6, 4))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    moved = torch.cat([flat[:, : groups.PLACE], inside[:, order].flatten(1)], 1)
    torch.testing.assert_close(embedded(flat), embedded(moved), atol=1e-12, rtol=1e-12)
    assert not torch.allclose(embedded(flat), embedded(flat.nan_to_num() * 2))


def naive_farthest(points, count):
    """The indices, by a loop over all pairs."""
    chosen = [max(range(len(points)), key=lambda i: math.dist(points[i], points.mean(0)))]
    while len(chosen) < count:
        reach = [min(math.dist(p, points[c]) for c in chosen) for p in points]
        if max(reach) <= 1e-6:
            break
        chosen.append(int(np.argmax(reach)))
    return chosen


def test_farthest_points_are_those_of_a_naive_search_and_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(n, 3)).astype(np.float32) for n in (30, 7, 1, 50)]
    clouds.append(np.zeros((9, 3), np.float32))
    clouds.append(np.repeat(rng.normal(size=(3, 3)), 4, 0).astype(np.float32))
    counts = [8, 7, 4, 20, 5, 9]
    found = groups.farthest(clouds, counts)
    for each, count, index in zip(clouds, counts, found):
        assert index.tolist() == naive_farthest(each.astype(np.float64), count)
        np.testing.assert_array_equal(groups.farthest([each], [count])[0], index)
    assert [len(i) for i in found] == [8, 7, 1, 20, 1, 3]


def test_groups_are_the_nearest_points_about_their_centres():
    points = field(points=200, groups=16, neighbours=8, spread=0.25)
    value = points.decode(cloud(200))
    inside, position = content(points, value)
    centre, radius = groups.frame(value, points)
    places = (value[:, :3] - centre) / radius
    assert np.linalg.norm(places, axis=1).max() == pytest.approx(1, abs=1e-5)
    centres = (position.numpy() - groups.STEPS) / groups.STEPS
    assert len(centres) == 16 and inside.shape == (16, 8, 3)
    for middle, near in zip(centres, inside.numpy()):
        distance = np.sort(np.linalg.norm(places - middle, axis=1))[:8]
        made = np.linalg.norm(near * 0.25, axis=1)
        np.testing.assert_allclose(made, distance, atol=1e-5)
        assert (np.diff(made) >= -1e-6).all() and made[0] < 1e-6
    assert sorted(map(tuple, position.tolist())) == list(map(tuple, position.tolist()))


@pytest.mark.parametrize(
    ("count", "tokens", "size"),
    [(1, 1, 1), (2, 1, 2), (16, 1, 16), (17, 2, 8), (64, 4, 32), (1024, 64, 32)],
)
def test_small_clouds_have_fewer_groups_and_none_is_most_of_a_cloud(count, tokens, size):
    points = field()
    inside, _ = content(points, points.decode(cloud(count)))
    present = ~inside[..., 0].isnan()
    assert len(inside) == tokens and (present.sum(1) == size).all()
    # absent points are last
    assert (present.int().diff(dim=1) <= 0).all()


@pytest.mark.parametrize("raw", [np.zeros((1, 3)), np.full((50, 3), 7.0), np.ones((2, 3))])
def test_a_point_and_points_at_one_place_are_one_token(raw):
    points = field(radius=2.0)
    value = points.decode(raw)
    assert (value == 0).all()
    flat = points.collate([value]).flat
    assert len(flat) == 1 and flat[0, :3].tolist() == [8, 8, 8]
    assert points.show(value).shape == (128, 128, 3)
    for view in ("weak", "strong", "local"):
        assert len(points.augment(value, view, np.random.default_rng(0)))
    assert np.isfinite(points.simple_features([raw, cloud(9)])([raw])).all()
    assert points.corrupt(value, "drop", 1.0, np.random.default_rng(0), value).size
    assert (
        points.tokenizer(8)(Column(points.collate([value]), torch.zeros(1).long()), "f", 1)
        .x.isfinite()
        .all()
    )


def test_no_point_is_no_value():
    for raw in (np.zeros((0, 3)), np.full((4, 3), np.nan), []):
        with pytest.raises(BadValue):
            field().decode(raw)


def test_points_without_a_place_are_left_out():
    raw = cloud(20)
    raw[3, 1] = np.nan
    raw[5, 0] = np.inf
    np.testing.assert_array_equal(field().decode(raw), field().decode(np.delete(raw, (3, 5), 0)))


def test_extent_is_seen_beside_the_unit_sphere_and_lengths_are_compared_in_metres():
    sphere, metres = field(radius=2.0), field(radius=2.0, scale="metres")
    small, large = (sphere.decode(cloud(200) * size) for size in (1, 3))
    one, three = (sphere.collate([v]).flat for v in (small, large))
    torch.testing.assert_close(one[:, :3], three[:, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one[:, 4:], three[:, 4:], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(three[:, 3] - one[:, 3], torch.full((len(one),), math.log(3)))
    one, three = (metres.collate([v]).flat for v in (small, large))
    torch.testing.assert_close((one[:, :3] - 8) * 3, three[:, :3] - 8, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one[:, 4:] * 3, three[:, 4:], atol=1e-4, rtol=1e-4)
    assert (one[:, 3] == 0).all()


def test_targets_are_the_places_of_a_group_whatever_its_attributes():
    points = field(channels=("intensity",), groups=4, neighbours=8)
    value = points.decode(cloud(64, 0, 1))
    target = points.targets(points.collate([value]))
    changed = value.copy()
    changed[:, 3] = np.nan
    assert target.shape == (4, 24)
    assert torch.equal(target, points.targets(points.collate([changed])))
    order = torch.randperm(8)
    shuffled = target.unflatten(1, (8, 3))[:, order].flatten(1)
    assert (points.token_loss(shuffled, target) < 1e-6).all()
    assert (points.token_loss(target + 1, target) > 0.1).all()


def test_a_mesh_is_points_of_its_surface_by_area():
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box((1, 2, 3))
    points = modalities.kind("points").infer([box.export(file_type="stl")], points=2000)
    assert points.channels == ("nx", "ny", "nz") and points.up == "z"
    value = points.decode(box.export(file_type="stl"))
    assert value.shape == (8000, 6)
    half, place = np.array([0.5, 1, 1.5]), value[:, :3]
    on = np.isclose(np.abs(place), half, atol=0.03)
    assert on.any(1).all()
    shares = [(value[:, 3 + axis] != 0).mean() for axis in range(3)]
    np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=2e-3)
    outward = np.take_along_axis(value[:, 3:], np.abs(value[:, 3:]).argmax(1)[:, None], 1)
    side = np.take_along_axis(place, np.abs(value[:, 3:]).argmax(1)[:, None], 1)
    assert (np.sign(outward) == np.sign(side)).all()
    np.testing.assert_array_equal(value, points.decode(box.export(file_type="stl")))
    views = [points.augment(value, "weak", np.random.default_rng(i)) for i in range(2)]
    assert all(len(view) == 2000 for view in views)


def test_views_turn_about_the_vertical_alone_and_normals_with_them():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(300, 3))
    raw = np.concatenate([cloud(300), normal / np.linalg.norm(normal, axis=1, keepdims=True)], 1)
    for up in "xyz":
        points = field(channels=("nx", "ny", "nz"), up=up, points=300)
        value, axis = points.decode(raw), "xyz".index(up)
        from amodal.modalities.shared.points_views import turned

        out = turned(value, up, points.channels, np.random.default_rng(1))
        np.testing.assert_array_equal(out[:, [axis, 3 + axis]], value[:, [axis, 3 + axis]])
        assert not np.allclose(out, value)
        for start in (0, 3):
            left, right = (v[:, start : start + 3] for v in (out, value))
            np.testing.assert_allclose(left @ left.T, right @ right.T, atol=1e-4)
        dots = [(v[:, :3] * v[:, 3:]).sum(1) for v in (out, value)]
        np.testing.assert_allclose(*dots, atol=1e-4)
    still = field(up="", points=300)
    value = still.decode(cloud(300))
    for seed in range(5):
        view = still.augment(value, "weak", np.random.default_rng(seed))
        assert (np.corrcoef(view.T[:3], value.T[:3])[[0, 1, 2], [3, 4, 5]] > 0.99).all()


def test_views_are_parts_of_the_cloud():
    points = field(points=256)
    value = points.decode(cloud(4000))
    sizes = {}
    for view in ("weak", "strong", "local"):
        made = [points.augment(value, view, np.random.default_rng(seed)) for seed in range(30)]
        assert max(map(len, made)) <= 256
        radii = [np.linalg.norm(v[:, :3] - v[:, :3].mean(0), axis=1).mean() for v in made]
        sizes[view] = len(made[0]), float(np.median(radii))
    assert sizes["local"][1] < sizes["strong"][1] <= sizes["weak"][1] * 1.2
    lengths = {len(points.augment(value, "strong", np.random.default_rng(s))) for s in range(20)}
    assert len(lengths) > 5 and min(lengths) >= 64


def test_attributes_that_all_samples_have_are_channels():
    kind = modalities.kind("points")
    whole = {"points": cloud(9), "red": range(9), "green": range(9), "blue": range(9)}
    some = whole | {"intensity": np.arange(9.0)}
    assert kind.infer([some, some]).channels == ("red", "green", "blue", "intensity")
    points = kind.infer([some, whole])
    assert points.channels == ("red", "green", "blue")
    value = points.decode({"points": cloud(9)})
    assert np.isnan(value[:, 3:]).all()
    flat = points.collate([value]).flat
    tokens = points.tokenizer(8)(Column(points.collate([value]), torch.zeros(1).long()), "f", 1)
    assert flat[:, :4].isfinite().all() and tokens.x.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ("colour",)}, "no channel of points is called"),
        ({"channels": ("red",)}, "all or none of red, green, blue"),
        ({"scale": "sphre"}, "Did you mean sphere"),
        ({"up": "w"}, "points.up"),
        ({"groups": 0}, "at least 1"),
        ({"points": 10**7}, "at most 262,144"),
        ({"mean": (1.0,)}, "1 numbers for 0 channels"),
    ],
)
def test_parameters_are_checked(options, message):
    with pytest.raises(AmodalError, match=message):
        field(**options)


def test_another_vertical_or_unit_is_said():
    assert "z as its vertical (up), and the run was trained on y" in field(up="z").mismatch(
        field(up="y")
    )
    assert "may be in other units" in field(radius=1000.0).mismatch(field(radius=1.0))
    assert not field(radius=3.0).mismatch(field(radius=1.0)) and not field().mismatch(field())
    assert not field().mismatch(modalities.make("image"))


def test_simple_features_say_what_a_shape_is():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    raws, labels = [], np.arange(60) % 3
    for label in labels:
        xyz = rng.normal(size=(300, 3))
        xyz *= {0: (1, 1, 1), 1: (1, 1, 0.05), 2: (0.05, 0.05, 1)}[int(label)]
        angle = rng.uniform(0, 6)
        turn = np.array(
            [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        raws.append(xyz @ turn * rng.uniform(0.5, 2))
    features = field().simple_features(raws[:30])(raws)
    fitted = LogisticRegression().fit(features[:30], labels[:30])
    assert fitted.score(features[30:], labels[30:]) == 1


def test_requests_of_lists_are_one_cloud():
    points = field()
    assert points.queries("[[0, 0, 0], [1, 2, 3]]") == [[[0, 0, 0], [1, 2, 3]]]
    assert points.queries(["a.ply", "b.ply"]) == ["a.ply", "b.ply"]
    assert points.queries(np.zeros((5, 3)))[0].shape == (5, 3)


def test_arrays_that_may_be_points_stay_series_and_are_said(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 3)))
    assert modalities.guess([tmp_path / "a.npy"]) == "series"
    doubt = modalities.make("series", channels=("a", "b", "c")).doubt([tmp_path / "a.npy"])
    assert 'modality = "points"' in doubt and 'modality = "image"' in doubt
    np.save(tmp_path / "b.npy", np.zeros((100, 12)))
    doubt = modalities.make("series").doubt([tmp_path / "b.npy"])
    assert "points" not in doubt
    assert field().decode(tmp_path / "a.npy").shape == (100, 3)

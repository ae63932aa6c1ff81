"""Places around cities: none upon another, at the distances of the Gaussian."""

import csv

import numpy as np
import pytest
from scipy import stats

from amodal import cli
from amodal.core import AmodalError
from amodal.curate.places import PlaceIndex, draw_places, moved, offset, on_globe

CITIES = np.array([[48.1, 11.6], [-33.9, 18.4], [64.1, -21.9], [0.0, 179.9], [40.7, -74.0]])


def distance(one, two):
    """On the globe, by the angle between two directions: another formula than the one tested."""
    a, b = on_globe(*one), on_globe(*two)
    return 6371 * np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)


def test_no_two_places_overlap_also_across_the_date_line():
    places, _ = draw_places(CITIES, 800, deviation=20, side=2.64, seed=3)
    for i in range(len(places)):
        north, east = (
            zip(*(offset(places[i], other) for other in places[i + 1 :])) if i < 799 else ((), ())
        )
        apart = np.maximum(np.abs(north), np.abs(east))
        assert (apart >= 2.64).all()
    # without the rule many would
    crowded = np.array(
        [moved(CITIES[0], k) for k in np.random.default_rng(0).normal(0, 20, (160, 2))]
    )
    assert any(
        max(map(abs, offset(a, b))) < 2.64 for i, a in enumerate(crowded) for b in crowded[i + 1 :]
    )


@pytest.mark.parametrize("city", CITIES.tolist())
def test_the_scale_of_the_gaussian_on_the_ground(city):
    places, sources = draw_places(np.array([city]), 1500, deviation=50, side=0.05, seed=1)
    assert (sources == 0).all()
    far = np.array([distance(city, place) for place in places])
    # the distance of two normal offsets has Rayleigh's distribution
    assert stats.kstest(far, stats.rayleigh(scale=50).cdf).pvalue > 0.01
    north = np.array([offset(city, place)[0] for place in places])
    assert north.std() == pytest.approx(50, rel=0.06) and abs(north.mean()) < 5
    longitudes = places[:, 1]
    assert (np.abs(longitudes) <= 180).all() and (np.abs(places[:, 0]) <= 90).all()


def test_the_index_against_every_pair():
    rng = np.random.default_rng(0)
    for latitude in (0.0, 60.0, -85.0):
        index, added = PlaceIndex(3.0), []
        for _ in range(200):
            place = moved(np.array([latitude, 179.99]), rng.normal(0, 15, 2))
            expected = any(max(map(abs, offset(other, place))) < 3 for other in added)
            assert index.overlaps(*place) == expected
            index.add(*place)
            added.append(place)


def test_cities_are_drawn_evenly_and_places_that_are_there_stay_free():
    existing = np.array(
        [moved(CITIES[0], k) for k in np.random.default_rng(1).normal(0, 5, (60, 2))]
    )
    places, sources = draw_places(CITIES, 500, existing=existing, deviation=10, seed=2)
    counts = np.bincount(sources, minlength=5)
    assert counts.min() > 40
    assert all(max(map(abs, offset(a, b))) >= 2.64 for a in existing for b in places)
    one, _ = draw_places(CITIES, 20, seed=5)
    two, _ = draw_places(CITIES, 20, seed=5)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("centres", "options", "message"),
    [
        (CITIES, {"count": 0}, "count must be a number above 0"),
        (CITIES, {"count": 5, "deviation": np.inf}, "deviation must be a number"),
        (CITIES, {"count": 5, "seed": -1}, "seed must be 0"),
        (CITIES, {"count": 5, "side": -1}, "side must be"),
        (CITIES[:1], {"count": 500, "deviation": 1.0, "side": 10.0}, "there is room for"),
        (CITIES[:, ::-1], {"count": 5}, "latitude first"),
        (np.zeros((0, 2)), {"count": 5}, "shape"),
    ],
)
def test_what_cannot_be_drawn(centres, options, message):
    with pytest.raises(AmodalError, match=message):
        draw_places(centres, **options)


def test_the_command(tmp_path, capsys):
    table = tmp_path / "cities.csv"
    table.write_text("city,lat,lng\nA,48.1,11.6\nB,-33.9,18.4\nC,,\n", encoding="utf-8")
    out = tmp_path / "places.csv"
    cli.main(["data", "places", str(table), "--count", "40", "--out", str(out)])
    assert "wrote" in capsys.readouterr().out
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert len(rows) == 40 and {row["centre"] for row in rows} == {"0", "1"}
    assert all(
        distance((48.1, 11.6), (float(r["latitude"]), float(r["longitude"]))) < 300
        for r in rows
        if r["centre"] == "0"
    )
    for words, message in (
        (["data", "places", str(table), "--out", str(out)], "--count"),
        (
            ["data", "places", str(tmp_path / "none.csv"), "--count", "4", "--out", str(out)],
            "none.csv",
        ),
    ):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert message in capsys.readouterr().err
    table.write_text("city,x\nA,48.1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["data", "places", str(table), "--count", "4", "--out", str(out)])
    assert "has no columns of latitude and longitude" in capsys.readouterr().err

"""What CROMA is for: two sensors of one place, of any size, of which one may be missing."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data, methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.data import Loader
from amodal.methods.shared.shapes import token_mean
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, method

BANDS = {"optical": ("red", "green", "near"), "radar": ("vv", "vh")}


def sensor(name, side=128, **options):
    options = {"patch": 8, "resolution": 10.0} | options
    return modalities.make("raster", bands=BANDS[name], size=side, **options)


def scene(side, rng):
    """Stripes that both sensors see, and noise that one of them does."""
    stripes = np.sin(np.arange(side) * rng.uniform(0.2, 1.0) + rng.uniform(0, 6))[None, :, None]
    return {
        f: (stripes + 0.3 * rng.normal(size=(len(bands), side, side))).astype(np.float32)
        for f, bands in BANDS.items()
    }


def table(side, count, seed=0):
    rng = np.random.default_rng(seed)
    scenes = [scene(side, rng) for _ in range(count)]
    return {f: [s[f][None] for s in scenes] for f in BANDS}  # of one date


def one(sensors, values):
    return Batch.of(
        1, {f: Column(sensors[f].collate([v]), torch.tensor([0])) for f, v in values.items()}
    )


def encoder(**options):
    torch.manual_seed(0)
    made = Encoder({f: sensor(f, **options) for f in BANDS}, size="nano", positions="alibi")
    return methods.build("croma", made).encoder.eval()


def test_a_run_on_tiles_of_32_pixels_reads_tiles_of_128(tmp_path):
    fields = {f: sensor(f) for f in BANDS}
    small = data.open(table(32, 24)).with_fields(fields)
    model = amodal.pretrain(
        "croma", small, tmp_path / "run", size="nano", steps=4, batch_size=8, progress=False
    )
    model = amodal.load(tmp_path / "run")
    for side in (32, 128):
        found = model.embed(data.open(table(side, 3, seed=1)).with_fields(fields), progress=False)
        for name in (*BANDS, "fused"):
            assert found.features[name].values.shape == (3, 64)
            assert found.features[name].values.isfinite().all()


@pytest.mark.parametrize("side", [32, 64, 128])
def test_what_lies_around_a_tile_is_what_a_larger_tile_adds(side):
    """In a tile of which all but 32 x 32 pixels are missing, there is what a tile of 32 pixels has,
    wherever they lie: distances alone count."""
    made, rng = encoder(), np.random.default_rng(0)
    tiles = scene(32, rng)
    sensors = dict(made.fields)
    small = one(sensors, {f: sensors[f].decode(v) for f, v in tiles.items()})
    large = {}
    for f, v in tiles.items():
        padded = np.full((len(v), side, side), np.nan, dtype=np.float32)
        padded[:, -32:, -32:] = v
        large[f] = sensors[f].decode(padded)
    with torch.no_grad():
        want, got = made.features(small), made.features(one(sensors, large))
    for name in (*BANDS, "fused"):
        torch.testing.assert_close(got[name].values, want[name].values, rtol=1e-4, atol=1e-5)


def test_a_tile_of_another_place_is_not_the_same():
    made, rng = encoder(), np.random.default_rng(0)
    sensors = dict(made.fields)
    one_place, other = (scene(32, rng) for _ in range(2))
    mixed = {"optical": one_place["optical"], "radar": other["radar"]}
    first, second = (
        made.features(one(sensors, {f: sensors[f].decode(v) for f, v in some.items()}))
        for some in (one_place, mixed)
    )
    torch.testing.assert_close(first["optical"].values, second["optical"].values)
    assert (first["fused"].values - second["fused"].values).abs().max() > 1e-3


def test_sensors_are_turned_alike():
    """What lay on one place still does."""
    fields = {f: modalities.make("raster", bands=("a",), size=8, patch=4) for f in BANDS}
    values = np.random.default_rng(0).normal(size=(30, 1, 1, 8, 8)).astype(np.float32)
    dataset = data.open({f: list(values) for f in BANDS}).with_fields(fields)
    m = methods.build("croma", Encoder(fields, size="nano", positions="alibi"))
    assert m.views == ("turned",)
    made, bad = Loader(dataset, range(30), batch=30, views=m.views, steps=1).load(0)
    optical, radar = (made[f].flat.nan_to_num() for f in BANDS)  # months are not known
    assert not bad and torch.equal(optical, radar)
    untouched = sum(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(
            made["optical"].values.split(),
            fields["optical"].collate([fields["optical"].decode(v) for v in values]).split(),
        )
    )
    assert untouched < 15
    weak, _ = Loader(dataset, range(30), batch=30, views=("weak",), steps=1).load(0)
    optical, radar = (weak[f].flat[:9].nan_to_num() for f in BANDS)
    assert not torch.equal(optical, radar)


def test_where_one_sensor_may_not_be_turned_none_is():
    fields = {"optical": sensor("optical"), "radar": sensor("radar", turn=False)}
    assert methods.build("croma", Encoder(fields, size="nano", positions="alibi")).views == (
        "plain",
    )
    assert method("croma", sources=("picture", "words")).views == ("plain",)


def places(m, rows):
    """Tokens of the decoder."""
    seen = []
    hook = m.decoder.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = m.features(rows)
    hook.remove()
    return seen[0], z


def built(**sensors):
    torch.manual_seed(0)
    return methods.build("croma", Encoder(sensors, size="nano", positions="alibi"))


def test_grids_of_the_same_corners_share_their_places():
    """8 x 8 pixels of 20 m are 16 x 16 of 10 m; on the same patches of pixels they are not."""
    rng = np.random.default_rng(0)
    for patch, expected in ((16, 16), (8, 64)):
        fine = modalities.make("raster", bands=("a",), size=64, patch=patch, resolution=10.0)
        coarse = modalities.make("raster", bands=("b",), size=32, patch=8, resolution=20.0)
        m = built(fine=fine, coarse=coarse)
        values = {"fine": rng.normal(size=(1, 64, 64)), "coarse": rng.normal(size=(1, 32, 32))}
        sensors = {"fine": fine, "coarse": coarse}
        rows = one(sensors, {f: sensors[f].decode(v) for f, v in values.items()})
        tokens, z = places(m, rows)
        assert len(tokens) == expected
        assert {f: int(c.flat[0, 1]) for f, c in z.hidden.items()} == {
            "fine": (64 // patch) ** 2 * 3 // 4,
            "coarse": 12,
        }


def dated(days, side=16, **options):
    """Sensors and one record of them, whose pixels are those of the date: sensor -> days, or the
    number of dates of unknown months."""
    rng = np.random.default_rng(0)
    sensors = {f: sensor(f, side=side, dates=4, **options) for f in BANDS}
    values = {}
    for f, known in days.items():
        count = known if isinstance(known, int) else len(known)
        pixels = rng.normal(size=(count, len(BANDS[f]), side, side))
        values[f] = {"values": pixels} | ({} if isinstance(known, int) else {"dates": known})
    return sensors, one(sensors, {f: sensors[f].decode(v) for f, v in values.items()})


QUARTERS = ["2020-01-03", "2020-04-03", "2020-07-03", "2020-10-03"]


@pytest.mark.parametrize("optical, radar, dates", [
    (["2020-01-03"], ["2020-01-03"], 1),
    (["2020-01-03"], ["2020-01-09"], 1),
    (["2020-01-03"], ["2020-01-13"], 2),  # more than a week
    (["2020-01-03"], ["2020-07-05"], 2),
    (["2020-01-03"], 1, 1),
    (QUARTERS, QUARTERS, 4),
    (QUARTERS, ["2020-01-06", "2020-04-02", "2020-07-05", "2020-10-01"], 4),
    (QUARTERS, QUARTERS[1:], 4),
    (QUARTERS[1:], QUARTERS, 4),
    (QUARTERS, 3, 4),
    (3, QUARTERS, 4),
])  # fmt: skip
def test_dates_of_both_sensors_are_one_scale(optical, radar, dates):
    """A place of the decoder stands for both sensors at one time; a date that one of them lacks
    moves none of the others."""
    sensors, rows = dated({"optical": optical, "radar": radar})
    tokens, _ = places(built(**sensors), rows)
    assert len(tokens) == 4 * dates


def test_the_joint_vector_depends_on_when_the_sensors_look():
    """Half a year between two sensors is a distance, and the order of both is one of the record."""
    vectors = []
    for day in ("2020-01-03", "2020-01-05", "2020-07-03"):
        sensors, rows = dated({"optical": ["2020-01-03"], "radar": [day]})
        with torch.no_grad():
            vectors.append(built(**sensors).encoder.features(rows)["fused"].values)
    near, far = ((v - vectors[0]).abs().max() for v in vectors[1:])
    assert 0 < near < far


def test_a_hidden_first_date_moves_no_other_one():
    """Dates are counted over all tokens, also where each sensor shows its later dates alone."""
    sensors, rows = dated({"optical": QUARTERS, "radar": QUARTERS[1:]})
    m, seen = built(**sensors).eval(), []
    last = {"optical": 12, "radar": 8}
    m.visible = lambda t, seeds: t.within() >= last[t.names[0]]
    m.fusion.cross.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["bias"]), with_kwargs=True
    )
    tokens, _ = places(m, rows)
    assert len(tokens) == 16
    torch.testing.assert_close(seen[0].query_TP, seen[0].key_SP)
    assert (seen[0].query_TP[:, 0] > 8.9).all()


@pytest.mark.parametrize("turn", [(-1,), (-2,), (-2, -1)])
def test_mirrored_sensors_of_other_patches_have_the_same_joint_vector(turn):
    """Distances are between centres: of patches of one value nothing but their places is seen."""
    rng = np.random.default_rng(0)
    sensors = {"optical": sensor("optical", 32), "radar": sensor("radar", 32, resolution=20.0)}
    tiles = {
        f: np.kron(rng.normal(size=(len(BANDS[f]), n, n)), np.ones((8, 8)))
        for f, n in (("optical", 4), ("radar", 2))
    }
    made = built(**sensors).encoder.double().eval()
    vectors = []
    for axes in ((), turn):
        values = {f: sensors[f].decode(np.flip(v, axes).copy()) for f, v in tiles.items()}
        with torch.no_grad():
            vectors.append(made.features(exact(one(sensors, values)))["fused"].values)
    torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-9, atol=1e-10)


def test_sizes_on_the_ground_that_are_rounded_have_the_same_corners():
    rng = np.random.default_rng(0)
    fine, coarse = sensor("optical", 64, patch=16, resolution=10.3), sensor("radar", 32)
    for size, expected in ((20.59, 16), (20.0, 31)):
        coarse = sensor("radar", 32, resolution=size)
        sensors = {"optical": fine, "radar": coarse}
        values = {"optical": rng.normal(size=(3, 64, 64)), "radar": rng.normal(size=(2, 32, 32))}
        rows = one(sensors, {f: sensors[f].decode(v) for f, v in values.items()})
        assert len(places(built(**sensors), rows)[0]) == expected


def test_a_record_with_one_sensor_trains_what_it_can():
    sources = ("optical", "radar")
    for absent in sources:
        (present,) = {*sources} - {absent}
        m = exact(method("croma", sources=sources))
        z = m.features(exact(batch(m.views, sources=sources, absent=(absent,))))
        terms = m.losses(z)
        assert terms["info_nce/optical~radar"] == 0 and terms[f"reconstruct/{absent}"] == 0
        assert terms[f"reconstruct/{present}"] == token_mean(z.hidden[present]) > 0
        terms[f"reconstruct/{present}"].backward()
        moved = {n for n, p in m.named_parameters() if p.grad is not None and p.grad.abs().sum()}
        for part in (f"trunks.{present}", "self_attention", "decoder.trunk"):
            assert any(part in n for n in moved), part
        assert not any(f"trunks.{absent}" in n or f"heads.{present}" in n for n in moved)


def test_fused_vectors_are_of_any_record_and_of_all_of_its_sensors():
    m = exact(method("croma", sources=("optical", "radar"))).eval()
    rows = exact(batch(("plain",), sources=("optical", "radar")))
    whole = m.encoder.features(rows)
    assert whole["fused"].rows.tolist() == list(range(8))
    for absent in ("optical", "radar"):
        (present,) = {"optical", "radar"} - {absent}
        alone = m.encoder.features(rows.only(present))
        paired = torch.isin(alone["fused"].rows, rows[absent].rows)
        both = whole["fused"].values[alone["fused"].rows]
        gap = (alone["fused"].values - both).abs().amax(1)
        assert (gap[~paired] < 1e-9).all() and (gap[paired] > 1e-3).all()


def test_two_dates_of_a_sensor_are_both_predicted():
    sensors = {f: sensor(f, side=16, dates=2) for f in BANDS}
    m, rng = built(**sensors), np.random.default_rng(0)
    days = ["2020-01-03", "2020-03-05"]
    rows = one(
        sensors,
        {
            f: sensors[f].decode(
                {"values": rng.normal(size=(2, len(bands), 16, 16)), "dates": days}
            )
            for f, bands in BANDS.items()
        },
    )
    tokens, z = places(m, rows)
    assert len(tokens) == 8 and {int(c.flat[0, 1]) for c in z.hidden.values()} == {6}


@pytest.mark.parametrize("positions", ["alibi", "sincos"])
def test_patches_of_another_side_in_each_step_are_refused(positions):
    sensors = {"optical": sensor("optical", patches=(4, 8)), "radar": sensor("radar")}
    with pytest.raises(AmodalError, match="'optical' draws the side of its patches"):
        methods.build("croma", Encoder(sensors, size="nano", positions=positions))

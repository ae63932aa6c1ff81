"""The generated farmland: seasons, light and clouds are what the set says."""

import io

import numpy as np
from amodal_claims.sets import crops


def pixels(i):
    return np.load(io.BytesIO(crops.record(i)["tile"]))["values"]


def test_records_are_the_same_in_every_process_and_differ_from_each_other():
    one, other = crops.record(5), crops.record(5)
    assert one == other and one["tile"] != crops.record(6)["tile"]
    stored = np.load(io.BytesIO(one["tile"]))
    assert list(stored["bands"]) == list(crops.BANDS)
    assert sorted(stored["dates"]) == list(stored["dates"]) and len(set(stored["dates"])) == 12


def test_a_season_peaks_when_its_crop_is_green():
    days = np.arange(365.0)
    for crop, (peaks, least) in crops.CROPS.items():
        mean = np.mean(
            [crops.season(crop, days, np.random.default_rng(i)) for i in range(200)], axis=0
        )
        assert abs(int(mean.argmax()) - peaks[0][0]) < 15
        assert mean.min() < 0.4 and mean.min() >= min(least, 0.05) * 0.9
    twice = crops.season("two crops", days, np.random.default_rng(0))
    assert twice[190] < 0.5 * min(twice[110:140].max(), twice[250:280].max())


def test_light_moves_all_bands_alike_and_the_ratio_of_bands_follows_cover():
    rows = [crops.record(i) for i in range(60)]
    maize = [pixels(i) for i, row in enumerate(rows) if row["crop"] == "maize"]
    assert len(maize) > 3
    whole = np.ma.masked_invalid(np.stack(maize))
    mean = ((whole[:, :, 2] - whole[:, :, 1]) / (whole[:, :, 2] + whole[:, :, 1])).mean((0, 2, 3))
    # July and August against January and February
    assert mean[6:8].mean() - mean[:2].mean() > 0.15


def test_one_date_in_five_is_missing_and_none_of_a_record_is_empty():
    every = np.stack([pixels(i) for i in range(200)])
    missing = np.isnan(every).all(axis=(2, 3, 4))
    assert 0.15 < missing.mean() < 0.23 and not missing.all(axis=1).any()
    half = np.isnan(every[:, :, 0, 0, 0]) & ~np.isnan(every[:, :, 0, -1, -1])
    assert 0.05 < half.mean() < 0.11

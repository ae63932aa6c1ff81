"""The generated scenes in colour and depth show what their classes say."""

import numpy as np
from amodal_claims.sets import tabletop


def test_records_are_a_function_of_their_number_alone():
    assert tabletop.record(5) == tabletop.record(5) != tabletop.record(6)


def test_solids_stand_out_in_depth_and_flat_things_do_not():
    heights = {k: [] for k in range(6)}
    for i in range(40):
        colour, depth, areas, count = tabletop.scene(np.random.default_rng([6, i]))
        assert (
            colour.shape == (24, 24, 3)
            and depth.shape == areas.shape == (24, 24)
            and 2 <= count <= 4
        )
        table = np.median(depth[areas == 0].astype(float))
        for k in range(6):
            if (areas == k).sum() > 8:
                heights[k].append(np.percentile(depth[areas == k].astype(float), 80) - table)
    mean = [np.mean(heights[k]) for k in range(6)]
    assert min(mean[1:4]) > 30 and max(mean[4:]) < 20  # flat things may lie on solids


def test_what_is_spoilt_is_spoilt_where_it_says():
    rng = np.random.default_rng(0)
    colour, depth, _, _ = tabletop.scene(rng)
    foggy, same, where = tabletop.spoilt(colour, depth, rng, "colour")
    assert np.array_equal(same, depth) and np.array_equal(foggy[~where], colour[~where])
    assert 0.15 < where.mean() < 0.55 and foggy[where].std() < 20
    same, holed, where = tabletop.spoilt(colour, depth, rng, "depth")
    assert (
        np.array_equal(same, colour)
        and (holed[where] == 0).all()
        and np.array_equal(holed[~where], depth[~where])
    )

"""The generated views: coordinates, pose and points belong together."""

import io

import numpy as np
from amodal_claims.sets import poses


def arrays(record):
    return (np.load(io.BytesIO(record[name])).astype(float) for name in ("points", "coordinates"))


def test_records_are_a_function_of_their_number_alone():
    assert poses.view(1, 5, 2) == poses.view(1, 5, 2) != poses.view(1, 5, 4)


def test_the_pose_takes_coordinates_to_the_points_that_are_seen():
    for kind in range(3):
        for i in range(4):
            record = poses.view(kind, 7, i)
            points, coordinates = arrays(record)
            visible = (points != 0).any(2)
            assert visible.sum() > 30 and np.array_equal(visible, (coordinates != 0).any(2))
            rotation = poses.pose(record["turn"], record["tilt"])
            assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(rotation) > 0
            placed = record["size"] * (coordinates - 0.5) @ rotation.T + [record[x] for x in "xyz"]
            off = np.linalg.norm(placed - points, axis=2)[visible]
            assert (
                coordinates.min() >= 0
                and coordinates.max() <= 1
                and np.abs(points[visible].mean(0)).max() < 0.01
            )
            if record["rendered"]:
                assert i % 2 == 0 and off.max() < 0.01
            else:
                assert (
                    np.median(off) < 0.1 and 0.01 < (off > 0.2).mean() < 0.2
                )  # noise, and flying pixels

"""The generated scenes show what they say, where they say it."""

import io
import json

import numpy as np
from amodal_claims.sets import scenes
from PIL import Image


def test_records_are_a_function_of_their_number_alone():
    assert scenes.record(5) == scenes.record(5) != scenes.record(6)


def test_each_line_has_its_box_and_each_box_its_colour():
    counts = set()
    for i in range(60):
        made = scenes.record(i)
        pixels = np.asarray(Image.open(io.BytesIO(made["image"]))).astype(int)
        boxes, objects, lines = (
            json.loads(made["boxes"]),
            made["objects"].split("; "),
            made["text"].split("\n"),
        )
        counts.add(len(lines))
        assert len(boxes) == len(objects) == len(lines) == int(made["count"])
        covered = np.zeros(pixels.shape[:2], dtype=int)
        for (left, top, right, bottom), named, line in zip(boxes, objects, lines):
            size, colour, shape = named.split()
            assert named in line and right - left == bottom - top
            assert scenes.SIZES[size][0] <= right - left <= scenes.SIZES[size][1]
            covered[top:bottom, left:right] += 1
            near = np.abs(pixels - scenes.COLOURS[colour]).max(2) < 30
            assert near[top:bottom, left:right].mean() > 0.1, (named, i)
        assert covered.max() == 1  # no two overlap
        outside = pixels[covered == 0]
        assert (outside.max(1) - outside.min(1)).max() < 3  # all that has colour is in a box
    assert counts == {1, 2, 3, 4}

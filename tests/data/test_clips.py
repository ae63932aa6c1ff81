"""Clips out of recordings."""

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.data.clips import around, everywhere


def test_clips_around_events():
    recording = np.arange(100)[:, None] * np.ones(2)
    first, edge, end = around(recording, [5.0, 0.1, 10.0], rate=10, before=1.0, after=2.0)
    assert first[:, 0].tolist() == list(range(40, 70))
    assert edge[:, 0].tolist() == list(range(30)) and end[:, 0].tolist() == list(range(70, 100))
    assert around(recording, [], rate=10, before=1, after=1) == []


def test_recordings_that_are_too_short():
    short = np.zeros((8, 3))
    assert around(short, [0.2], rate=10, before=1, after=1) == [None]
    assert len(around(short, [0.2], rate=10, before=1, after=1, pad=True)[0]) == 8
    with pytest.raises(AmodalError, match="outside"):
        around(short, [0.9], rate=10, before=0.1, after=0.1)
    with pytest.raises(AmodalError, match="no steps"):
        around(short, [0.1], rate=10, before=0, after=0.01)


def test_clips_everywhere():
    recording = np.arange(25)
    assert [c.tolist() for c in everywhere(recording, rate=5, length=2)] == [
        list(range(10)),
        list(range(10, 20)),
    ]
    assert [c[0] for c in everywhere(recording, rate=5, length=2, step=1)] == [0, 5, 10, 15]
    assert everywhere(recording, rate=5, length=6) == []
    with pytest.raises(AmodalError, match="no steps"):
        everywhere(recording, rate=5, length=0.01)

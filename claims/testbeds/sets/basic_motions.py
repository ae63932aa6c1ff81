"""BasicMotions: 80 recordings of 10 s of a smartwatch: standing, walking, running, badminton.

Accelerometer and gyroscope, three axes each, ten samples a second; four students did each of four
activities five times. The source says which recordings are to test on (40), not who did them. Of
its 40 to learn from, three of ten in each class are for validation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.data.fetch import Pypi
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records
from testbeds.sets._shares import parts

PACKAGES = (
    Pypi(
        "aeon",
        "1.6.0",
        "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
        6.4,
    ),
)
LICENCE = "BSD-3-Clause (package); data: UEA archive, for research"
RECORDS = 80
SENSORS = {"accelerometer": slice(0, 3), "gyroscope": slice(3, 6)}


def write(out: Path, archives: list[Path]) -> None:
    columns: dict[str, Any] = {name: [] for name in ("key", *SENSORS, "activity", "part")}
    for part in ("train", "test"):
        file = f"aeon/datasets/data/BasicMotions/BasicMotions_{part.upper()}.ts"
        lines = wheel(archives[0]).read(file).decode().splitlines()
        rows = [line for line in lines if line.strip() and line[0] not in "@#"]
        for i, row in enumerate(rows):
            *axes, activity = row.split(":")
            motion = np.array([axis.split(",") for axis in axes], dtype=np.float32).T
            columns["key"].append(f"{part}-{i:02d}")
            for sensor, chosen in SENSORS.items():
                columns[sensor].append(motion[:, chosen].tolist())
            columns["activity"].append(activity.strip().lower())
            columns["part"].append(part)
    columns["part"] = _with_validation(columns["key"], columns["activity"], columns["part"])
    for sensor in SENSORS:
        columns[sensor] = pa.array(columns[sensor], pa.list_(pa.list_(pa.float32())))
    records(out, columns)
    describe(
        out,
        {name: field("series", channels=["x", "y", "z"], rate=10.0, patch=4) for name in SENSORS},
        {"activity": "category"},
        title="Four activities seen by the two motion sensors of a smartwatch",
        licence="research",
        split="part",
    )


def _with_validation(keys: list[str], classes: list[str], source: list[str]) -> list[str]:
    """The parts, with some records of "train" moved to "valid"."""
    inner = [i for i, part in enumerate(source) if part == "train"]
    moved = parts([keys[i] for i in inner], 0.3, 0.0, [classes[i] for i in inner])
    named = dict(zip(inner, moved))
    return [named.get(i, part) for i, part in enumerate(source)]

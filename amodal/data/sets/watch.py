"""A smartwatch's accelerometer and gyroscope: 416 windows of 10 s, 10 people doing 7 shoulder
exercises.

50 samples a second, three axes each; 140 recordings, left and right arm, cut into windows that do
not overlap (what is left at the end of a recording is dropped). The split never divides a person.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.data.fetch import Pypi
from amodal.data.sets.shared.archives import object_npy, wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "seglearn",
        "1.2.5",
        "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        11.3,
    ),
)
LICENCE = "BSD-3-Clause"
RECORDS = 416
EXERCISES = {
    "PEN": "pendulum", "ABD": "abduction", "FEL": "forward elevation", "IR": "internal rotation",
    "ER": "external rotation", "TRAP": "trapezius extension", "ROW": "upright row",
}  # fmt: skip
RATE, SECONDS = 50, 10
SENSORS = {"accelerometer": (slice(0, 3), "g"), "gyroscope": (slice(3, 6), "radian / second")}


def write(out: Path, archives: list[Path]) -> None:
    data = object_npy(wheel(archives[0]).read("seglearn/data/watch_dataset.npy")).item()
    length = RATE * SECONDS
    columns: dict[str, Any] = {
        name: [] for name in ("key", *SENSORS, "exercise", "subject", "side")
    }
    for i, motion in enumerate(data["X"]):
        for start in range(0, len(motion) - length + 1, length):
            columns["key"].append(f"s{data['subject'][i]:02d}-r{i:03d}-{start // length:02d}")
            for sensor, (axes, _) in SENSORS.items():
                columns[sensor].append(
                    motion[start : start + length, axes].astype(np.float32).tolist()
                )
            columns["exercise"].append(EXERCISES[data["y_labels"][data["y"][i]]])
            columns["subject"].append(f"s{data['subject'][i]:02d}")
            columns["side"].append("right" if data["side"][i] else "left")
    for sensor in SENSORS:
        columns[sensor] = pa.array(columns[sensor], pa.list_(pa.list_(pa.float32())))
    records(out, columns)
    describe(
        out,
        {
            name: field("series", channels=["x", "y", "z"], rate=50.0, units=[unit] * 3)
            for name, (_, unit) in SENSORS.items()
        },
        {"exercise": "category", "side": "category", "subject": "category"},
        title="Shoulder exercises seen by the two motion sensors of a smartwatch",
        licence=LICENCE,
        split_by="subject",
    )

"""What each checkpoint is trained on: records of fetched sets, in a folder of its own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from amodal_claims.sets import emoji_vendors
from testbeds.sets import basic_motions

from amodal import data
from amodal.data import sets
from amodal.data.fetch import download
from amodal.data.sets import openmoji
from amodal.data.sets.shared.archives import tgz, wheel
from amodal.data.sets.shared.writing import describe, field, records

SENSORS = ("accelerometer", "gyroscope")
RATE, COPIES = 50.0, 4
SLOWER = (1, 2, 5)
"""A copy of a recording has one step of so many, and straight lines between them: other watches
take 10 to 50 samples a second."""


def opened(name: str) -> data.Dataset:
    """A set, fetched unless it is here."""
    sets.ensure(name)
    return data.open(name)


def renamed(
    dataset: data.Dataset, fields: Mapping[str, str], labels: tuple[str, ...]
) -> data.Dataset:
    """The records of a set with the names of fields that a checkpoint reads.

    Args:
        dataset: A set.
        fields: Name there -> name here.
        labels: That are taken along.
    """
    cells = {new: [dataset.raw(i, old) for i in range(len(dataset))] for old, new in fields.items()}
    cells |= {label: list(dataset.label(label)) for label in labels}
    kinds = {new: dataset.fields[old] for old, new in fields.items()}
    return data.open(cells, name=dataset.name, fields=kinds).with_parts(dataset.parts)


def sensors(folder: Path) -> Path:
    """The training and validation people of `watch_people`, each window also turned and slowed.

    A copy has its axes turned by a random rotation, the same for both sensors, as a watch may be
    worn on either arm and either way up.
    """
    source, rng = opened("watch_people"), np.random.default_rng(0)
    columns: dict[str, list] = {name: [] for name in ("key", *SENSORS, "exercise", "part")}
    for part in ("train", "valid"):
        for row in source.split(part):
            windows = [np.asarray(source.value(int(row), f)) for f in SENSORS]
            for copy in range(COPIES if part == "train" else 1):
                turn, step = (rotation(rng), rng.choice(SLOWER)) if copy else (np.eye(3), 1)
                cells = [slowed(w @ turn, int(step)).astype(np.float32).tolist() for w in windows]
                exercise = str(source.label("exercise")[row])
                for column, cell in zip(
                    columns.values(), (f"{row}-{copy}", *cells, exercise, part)
                ):
                    column.append(cell)
    for sensor in SENSORS:
        columns[sensor] = pa.array(columns[sensor], pa.list_(pa.list_(pa.float32())))
    records(folder, columns)
    describe(
        folder,
        {
            name: field("series", channels=["x", "y", "z"], rate=RATE, units=[unit] * 3)
            for name, unit in zip(SENSORS, ("g", "radian / second"))
        },
        {"exercise": "category"},
        title="Windows of a smartwatch's motion sensors, turned and slowed",
        licence="BSD-3-Clause",
        split="part",
    )
    return folder


def rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation of space, each as likely as any other (Stewart 1980)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, ::-1]


def slowed(window: np.ndarray, step: int) -> np.ndarray:
    """A window of (T, C) as a sensor of a lower rate would have it, between whose samples straight
    lines are drawn."""
    at = np.arange(len(window))
    return np.stack([np.interp(at, at[::step], axis[::step]) for axis in window.T], 1)


def at_50_hz(
    dataset: data.Dataset, rate: float, gravity: float, labels: tuple[str, ...]
) -> data.Dataset:
    """Recordings of two sensors as the checkpoint reads them.

    Args:
        dataset: Fields accelerometer and gyroscope.
        rate: Its samples a second.
        gravity: What its accelerometer calls 1 g.
        labels: That are taken along.
    """
    cells: dict[str, list] = {}
    for sensor in SENSORS:
        values = [np.asarray(dataset.value(i, sensor)) for i in range(len(dataset))]
        cells[sensor] = [
            resampled(v / (gravity if sensor == SENSORS[0] else 1), rate) for v in values
        ]
    cells |= {label: list(dataset.label(label)) for label in labels}
    axes = data.open("watch_people").fields
    return data.open(cells, name=dataset.name, fields={s: axes[s] for s in SENSORS}).with_parts(
        dataset.parts
    )


def gestures() -> data.Dataset:
    """Ten people who pick up a Wii remote (PickupGestureWiimoteZ of the UEA archive, in aeon): its
    accelerometer along one axis, in g, 100 samples a second; the two other axes are missing."""
    archive = wheel(download(basic_motions.PACKAGES[0]))
    cells: dict[str, list] = {"accelerometer": [], "person": []}
    parts = []
    for part in ("train", "test"):
        file = f"aeon/datasets/data/PickupGestureWiimoteZ/PickupGestureWiimoteZ_{part.upper()}.ts"
        for line in archive.read(file).decode().splitlines():
            if line.strip() and line[0] not in "@#":
                axis, person = line.split(":")
                window = resampled(np.array(axis.split(","), dtype=float)[:, None], 100.0)
                cells["accelerometer"].append(
                    np.pad(window, ((0, 0), (2, 0)), constant_values=np.nan)
                )
                cells["person"].append(f"person {person}")
                parts.append(data.splits.PARTS.index(part))
    axes = {"accelerometer": data.open("watch_people").fields["accelerometer"]}
    return data.open(cells, name="gestures", fields=axes).with_parts(np.array(parts, dtype=np.int8))


def resampled(window: np.ndarray, rate: float) -> np.ndarray:
    """(T, C) of any rate -> steps of a fiftieth of a second, by straight lines."""
    length = len(window) / rate
    at = np.arange(int(length * RATE)) / RATE
    return np.stack(
        [np.interp(at, np.arange(len(window)) / rate, axis) for axis in window.T], 1
    ).astype(np.float32)


def pictures_text(folder: Path) -> Path:
    """OpenMoji, the same emoji by Twemoji, and icons of furniture, each with a text.

    An emoji is in the same part of the split whoever drew it: that of `openmoji`. The text is the
    name; Twemoji's has the tags behind it, so that a picture is known by more than its name.
    """
    emoji, rooms = opened("openmoji"), opened("sweethome3d")
    columns: dict[str, list] = {name: [] for name in ("key", "image", "text", "source", "part")}
    part_of = np.array(data.splits.PARTS)[emoji.parts]
    drawn = twemoji()
    for i, key in enumerate(emoji.keys):
        name, tags = (emoji.raw(i, f) for f in ("annotation", "tags"))
        rows = [(f"openmoji-{key}", emoji.raw(i, "image"), name, "openmoji", part_of[i])]
        if (code := plain(key)) in drawn:
            text = f"{name}, {tags}" if tags else name
            rows.append((f"twemoji-{key}", drawn[code], text, "twemoji", part_of[i]))
        for row in rows:
            for column, cell in zip(columns.values(), row):
                column.append(cell)
    part_of = np.array(data.splits.PARTS)[rooms.parts]
    for i, key in enumerate(rooms.keys):
        row = (
            f"furniture-{key}",
            rooms.raw(i, "image"),
            rooms.raw(i, "name"),
            "sweethome3d",
            part_of[i],
        )
        for column, cell in zip(columns.values(), row):
            column.append(cell)
    records(folder, columns)
    describe(
        folder,
        {"image": field("image", size=64, channels=3, flip=False), "text": field("text")},
        {"source": "category"},
        title="Emoji of two vendors and furniture, with names",
        licence="CC BY-SA 4.0, CC BY 4.0, CC BY 3.0",
        split="part",
    )
    return folder


def plain(code: str) -> str:
    """The code of an emoji without the mark for the coloured form, which some vendors leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def twemoji() -> dict[str, bytes]:
    """Code -> picture of 64 pixels, of Twemoji."""
    archive = download(emoji_vendors.PACKAGES[1])
    files = {plain(Path(p).stem): svg for p, svg in tgz(archive) if p.endswith(".svg")}
    return dict(zip(files, openmoji.rendered(list(files.values()), openmoji.SIZE)))


def sound(folder: Path) -> str:
    """The set `sounds` as it is."""
    return str(opened("sounds").path)


def without_test(dataset: data.Dataset) -> data.Dataset:
    """The records to learn from, and those of the validation part in the place of the test part."""
    rows = np.concatenate([dataset.split("train"), dataset.split("valid")])
    chosen = dataset.subset(rows)
    parts = np.array(
        [
            data.splits.PARTS.index("train" if i < len(dataset.split("train")) else "test")
            for i in range(len(rows))
        ]
    )
    return chosen.with_parts(parts)

"""Damaged tables and archives: a whole source is damaged, not one value. It opens, or says in one
sentence which file is damaged.

What is read of it is compared with the records of the undamaged one; a pack, which has checksums,
must never differ.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal import data
from amodal.core import AmodalError
from amodal.progress import Bar
from benchmarks.faults.corruptions import CORRUPTIONS, picture, words

N = 12
SECONDS = 30


def cells(rng: np.random.Generator) -> dict[str, list]:
    return {
        "id": [f"r{i:02d}" for i in range(N)],
        "image": [picture("png")(rng) if i % 4 else None for i in range(N)],
        "text": [words("utf-8")(rng).decode() if i % 3 else None for i in range(N)],
        "x": [float(i) for i in range(N)],
        "species": ["cat" if i % 2 else "dog" for i in range(N)],
    }


def plain(root: Path, ending: str, rng: np.random.Generator) -> Path:
    rows = cells(rng)
    names = ("id", "text", "x", "species")
    path = root / f"records.{ending}"
    if ending in ("csv", "tsv"):
        mark = "," if ending == "csv" else "\t"
        lines = [mark.join(names)] + [
            mark.join(str(rows[n][i] or "") for n in names) for i in range(N)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        objects = [{n: rows[n][i] for n in names} for i in range(N)]
        path.write_text(
            json.dumps(objects)
            if ending == "json"
            else "".join(json.dumps(o) + "\n" for o in objects),
            encoding="utf-8",
        )
    _toml(root, path.name, ("text",))
    return path


def parquet(root: Path, rng: np.random.Generator, checksums: bool) -> Path:
    pq.write_table(
        pa.table(cells(rng)),
        root / "records.parquet",
        row_group_size=5,
        write_page_checksum=checksums,
    )
    _toml(root, "records.parquet", ("image", "text"))
    return root / "records.parquet"


def tar(root: Path, rng: np.random.Generator) -> Path:
    rows = cells(rng)
    with tarfile.open(root / "records.tar", "w") as archive:
        for i in range(N):
            inside = {
                ".png": rows["image"][i],
                ".txt": rows["text"][i] and rows["text"][i].encode(),
            }
            inside[".json"] = json.dumps({"species": rows["species"][i]}).encode()
            for ending, content in inside.items():
                if content:
                    member = tarfile.TarInfo(f"{rows['id'][i]}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    _toml(root, "records.tar", ("image", "text"), key="", label="json.species")
    return root / "records.tar"


def saved(root: Path, rng: np.random.Generator) -> Path:
    """As Hugging Face's `save_to_disk` leaves it."""
    table = pa.table(cells(rng))
    with (
        pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (root / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}), encoding="utf-8"
    )
    (root / "dataset_info.json").write_text(json.dumps({"features": {}}), encoding="utf-8")
    _toml(root, ".", ("image", "text"))
    return root / "data-00000-of-00001.arrow"


def packed(root: Path, rng: np.random.Generator) -> Path:
    source = root.parent / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    parquet(source, rng, False)
    data.pack(data.open(source), root)
    return next(root.glob("shard-*.arrow"))


def shard(root: Path, rng: np.random.Generator) -> Path:
    """A shard of rasters at two dates, in a .zarr.zip."""
    pixels = rng.integers(1, 5000, (N, 2, 3, 8, 8)).astype(np.float32)
    days, bands = ["2024-03-31", "2024-06-30"], ["red", "nir", "swir"]
    values = [{"values": one, "dates": days, "bands": bands} for one in pixels]
    source = data.open({"sensor": values}, fields={"sensor": "raster"})
    written = root.parent / "shards"
    shutil.rmtree(written, ignore_errors=True)
    first, *_ = data.write_zarr(source, written)
    shutil.rmtree(root)
    shutil.copytree(first.parents[1], root)
    return next(root.rglob("*.zarr.zip"))


def slices(root: Path, rng: np.random.Generator) -> Path:
    """A folder of DICOM slices for each of four people, one slice of which is damaged."""
    from tests.modalities.scans import slice_of

    for person in range(4):
        (root / f"p{person}").mkdir()
        for i in range(3):
            pixels = rng.integers(0, 2000, (6, 8))
            content = slice_of(pixels, (0, 0, 2 * i), SeriesInstanceUID=f"1.2.{person}")
            (root / f"p{person}" / f"{i}.dcm").write_bytes(content)
    data.init(root)
    return root / "p2" / "1.dcm"


def _toml(
    root: Path, records: str, fields: tuple[str, ...], key: str = "id", label: str = "species"
) -> None:
    lines = [f'records = "{records}"'] + ([f'key = "{key}"'] if key else [])
    for name in fields:
        lines += [
            f"[fields.{name}]",
            f'modality = "{name}"',
            "size = 16" if name == "image" else "max_length = 64",
        ]
    (root / "dataset.toml").write_text(
        "\n".join([*lines, "[labels.species]", f'column = "{label}"', ""]), encoding="utf-8"
    )


SOURCES: dict[str, Callable[[Path, np.random.Generator], Path]] = {
    **{
        ending: lambda root, rng, ending=ending: plain(root, ending, rng)
        for ending in ("csv", "tsv", "json", "jsonl")
    },
    "parquet": lambda root, rng: parquet(root, rng, False),
    "parquet with checksums": lambda root, rng: parquet(root, rng, True),
    "tar": tar,
    "huggingface": saved,
    "pack": packed,
    "zarr": shard,
    "dicom": slices,
}
CHECKED = {"pack", "parquet with checksums"}


def contents(root: Path) -> dict[tuple[str, str], str]:
    """(key, field) -> what is read of it, labels too; values that cannot be read are `bad`. Raises
    AmodalError."""
    dataset = data.open(root)
    loader = data.Loader(dataset, range(len(dataset)), batch=4, shuffle=False)
    found = {}
    for number, batch in enumerate(loader):
        for field in dataset.fields:
            for row in batch[field].rows.tolist():
                value = dataset.value(4 * number + row, field)
                found[batch.keys[row], field] = hashlib.sha256(
                    repr(value.shape).encode() + value.tobytes()
                ).hexdigest()
    found |= {(bad.key, bad.field): "bad" for bad in loader.bad}
    for label in dataset.labels:
        found |= {
            (key, label): str(value)
            for key, value in zip(dataset.keys, dataset.label(label))
            if value is not None
        }
    return found


def late(number, frame):
    raise TimeoutError("a hang")


def run(count: int, where: Path, rng: np.random.Generator, *, shown: bool = True) -> dict:
    """Returns counts of outcomes for each sort of source, and what is wrong."""
    outcomes = {name: Counter() for name in SOURCES}
    wrong = []
    signal.signal(signal.SIGALRM, late)
    with Bar("damaged tables and archives", count, shown=shown) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(count):
            name = list(SOURCES)[i % len(SOURCES)]
            damage = CORRUPTIONS[(i // len(SOURCES)) % len(CORRUPTIONS)]
            root = where / name
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            file = SOURCES[name](root, rng)
            before, whole = contents(root), file.read_bytes()
            file.write_bytes(damage(whole, rng))
            signal.alarm(SECONDS)
            try:
                after = contents(root)
                outcome = compare(before, after)
            except AmodalError:
                outcome = "error that says so"
            except Exception as error:  # what must not happen
                outcome = "fault"
                wrong.append(
                    {
                        "source": name,
                        "damage": damage.__name__,
                        "fault": f"{type(error).__name__}: {error}"[:500],
                    }
                )
            finally:
                signal.alarm(0)
            if (
                outcome not in ("same", "error that says so", "quarantined", "fault")
                and name in CHECKED
            ):
                wrong.append({"source": name, "damage": damage.__name__, "fault": outcome})
            outcomes[name][outcome] += 1
            bar.step(f"{len(wrong)} wrong")
    return {
        "files": count,
        "outcomes": {name: dict(c) for name, c in outcomes.items()},
        "wrong": wrong,
    }


def compare(before: dict, after: dict) -> str:
    """What became of the values: a lost member of a tar is a bad record of another name."""
    read = {k: v for k, v in after.items() if v != "bad"}
    if any(before.get(k) != v for k, v in read.items()):
        return "changed"
    if len(read) < len(after):
        return "quarantined"
    return "same" if read == before else "fewer"

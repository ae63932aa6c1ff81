"""Small data of every sort that a reader reads, all of it the same ten records: a number of fields,
some missing."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

N = 10
CAPTIONS = [f"picture number {i} shows something" if i % 3 or i == 9 else None for i in range(N)]
SPECIES = ["cat" if i % 2 else "dog" for i in range(N)]


def png(i: int) -> bytes | None:
    if i % 5 == 4:
        return None
    pixels = np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def wav(i: int) -> bytes | None:
    if i % 4:
        return None
    file = io.BytesIO()
    soundfile.write(
        file, np.random.default_rng(i).uniform(-0.5, 0.5, 1600 + 100 * i), 8000, format="wav"
    )
    return file.getvalue()


def files() -> dict[str, bytes]:
    """name -> content: a folder with two sub-folders."""
    files = {}
    for i in range(N):
        stem = f"{SPECIES[i]}/r{i:02d}"
        content = {
            ".png": png(i),
            ".wav": wav(i),
            ".txt": CAPTIONS[i].encode() if CAPTIONS[i] else None,
        }
        files |= {stem + ending: data for ending, data in content.items() if data}
    return files


def folder(root: Path) -> Path:
    for name, data in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def messy(root: Path) -> Path:
    """The same folder as people leave it: hidden files, notes, unknown endings, upper case, a
    damaged picture, an empty text."""
    folder(root)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "README.md").write_text("about this folder", encoding="utf-8")
    (root / "Thumbs.db").write_bytes(b"x")
    (root / "dog" / "notes.abc").write_text("?", encoding="utf-8")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._r00.png").write_bytes(b"x")
    (root / "dog" / "R20.PNG").write_bytes(png(0))
    (root / "cat" / "r21.png").write_bytes(png(1)[:60])
    (root / "cat" / "r22.txt").write_text("", encoding="utf-8")
    return root


def rows() -> list[dict]:
    """The same records as rows of a table; pictures by path below `files`."""
    return [
        {
            "id": f"k{i:02d}",
            "file": f"files/{SPECIES[i]}/r{i:02d}.png" if png(i) else None,
            "caption": CAPTIONS[i],
            "weight": i * 1.5 if i % 3 else None,
            "height": i + 10,
            "species": SPECIES[i],
            "latitude": 40.0 + i,
        }
        for i in range(N)
    ]


def table(root: Path, ending: str) -> Path:
    folder(root / "files")
    path = root / f"records.{ending}"
    if ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows()[0]))
            writer.writeheader()
            writer.writerows(rows())
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows()), path, row_group_size=3)
    return path


def tars(root: Path, shards: int = 2) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    members = sorted(files().items())
    members += [
        (f"{SPECIES[i]}/r{i:02d}.json", json.dumps({"age": i, "species": SPECIES[i]}).encode())
        for i in range(N)
    ]
    members.sort()
    for s in range(shards):
        with tarfile.open(root / f"part-{s}.tar", "w") as tar:
            for name, data in members:
                if int(name.split("/r")[1][:2]) % shards == s:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def huggingface(root: Path, splits: bool = False) -> Path:
    """What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave."""
    cells = {
        "image": pa.array(
            [{"bytes": png(i), "path": None} if png(i) else None for i in range(N)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "text": pa.array(CAPTIONS),
        "embedding": pa.array([[float(i), 1.0, -float(i)] for i in range(N)]),
        "label": pa.array([int(s == "dog") for s in SPECIES]),
    }
    whole = pa.table(cells)
    features = {
        "image": {"_type": "Image"},
        "text": {"dtype": "string", "_type": "Value"},
        "embedding": {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    parts = {"train": whole.slice(0, 8), "test": whole.slice(8)} if splits else {"": whole}
    root.mkdir(parents=True, exist_ok=True)
    if splits:
        (root / "dataset_dict.json").write_text(
            json.dumps({"splits": list(parts)}), encoding="utf-8"
        )
    for name, part in parts.items():
        folder = root / name
        folder.mkdir(exist_ok=True)
        half = part.num_rows // 2
        names = []
        for n, piece in enumerate((part.slice(0, half), part.slice(half))):
            names.append(f"data-{n:05d}-of-00002.arrow")
            with (
                pa.OSFile(str(folder / names[-1]), "wb") as sink,
                pa.ipc.new_stream(sink, piece.schema) as writer,
            ):
                writer.write_table(piece)
        (folder / "state.json").write_text(
            json.dumps(
                {"_data_files": [{"filename": n} for n in names], "_indices_data_files": None}
            ),
            encoding="utf-8",
        )
        (folder / "dataset_info.json").write_text(
            json.dumps({"features": features}), encoding="utf-8"
        )
    return root


def arrays() -> dict:
    rng = np.random.default_rng(0)
    return {
        "picture": [
            rng.integers(0, 255, (3, 8, 8), dtype=np.uint8) if png(i) else None for i in range(N)
        ],
        "caption": CAPTIONS,
        "signal": [rng.normal(size=(20 + i, 2)) if i % 2 else None for i in range(N)],
        "row": rng.normal(size=(N, 4)),
        "species": SPECIES,
    }

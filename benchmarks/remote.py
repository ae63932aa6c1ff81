"""Data in object storage behind 50 ms a request: what asking for many values at once is worth, and
what a second epoch costs.

The store is fsspec's in memory, which sleeps before each answer; bandwidth, which is the network's,
is not modelled. 96 records, a picture of 64 x 64 pixels and a caption each, in batches of 32,
decoded by one process. By the clock; memory is not measured. "Ours" in the last lines is an epoch
from the disk that the first one filled, beside the same records in a local folder.
"""

import io
import math
import os
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from amodal import data
from benchmarks._timing import Row
from benchmarks._wall_clock import alternate

ONLY_BY_NAME = True
LATENCY, RECORDS, BATCH = 0.05, 96, 32
REQUESTS = ("cat_file", "info", "find")


class DelayedFileSystem(MemoryFileSystem):
    protocol = "slow"
    store, pseudo_dirs = MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("slow://", "memory://"))


def _delayed(name: str):
    def answer(self, *args, **kwargs):
        time.sleep(LATENCY)
        return getattr(MemoryFileSystem, name)(self, *args, **kwargs)

    return answer


for _name in REQUESTS:
    setattr(DelayedFileSystem, _name, _delayed(_name))


def run() -> list[Row]:
    fsspec.register_implementation("slow", DelayedFileSystem, clobber=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        root = Path(folder)
        sorts = {"files": _files(root / "files")}
        sorts |= {"tar": _tar(root), "pack": data.pack(data.open(sorts["files"]), root / "pack")}
        data.init(sorts["files"])
        data.init(sorts["tar"])
        for what, path in sorts.items():
            fsspec.filesystem("memory").put(str(path), f"/bench/{what}", recursive=True)
        for what in sorts:
            many, one = partial(_first, what, 32), partial(_first, what, 1)
            rows.append(alternate(f"{what}, first epoch", many, "one at a time", one, repeat=3))
        os.environ["AMODAL_CACHE"] = str(root / "cache")
        for what, path in sorts.items():
            far, near = data.open(f"slow://bench/{what}"), data.open(path)
            rows.append(
                alternate(
                    f"{what}, second epoch",
                    partial(_epoch, far),
                    "local folder",
                    partial(_epoch, near),
                )
            )
    return rows


def _first(what: str, at_once: int) -> tuple[float, float]:
    """With a disk that is empty before the data is opened."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("amodal.data.remote.MAX_REQUESTS", at_once),
    ):
        os.environ["AMODAL_CACHE"] = folder
        taken = _epoch(data.open(f"slow://bench/{what}"))
    return taken


def _epoch(dataset) -> tuple[float, float]:
    start = time.perf_counter()
    batches = list(data.Loader(dataset, range(RECORDS), batch=BATCH, shuffle=False, cache_bytes=0))
    assert sum(len(batch.columns["image"]) for batch in batches) == RECORDS
    return time.perf_counter() - start, math.nan


def _files(root: Path) -> Path:
    root.mkdir()
    for i in range(RECORDS):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.jpg")
        (root / f"{i}.txt").write_text(f"picture number {i} shows something", encoding="utf-8")
    return root


def _tar(root: Path) -> Path:
    (root / "tar").mkdir()
    with tarfile.open(root / "tar" / "0.tar", "w") as tar:
        for file in sorted((root / "files").iterdir()):
            info = tarfile.TarInfo(file.name)
            content = file.read_bytes()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return root / "tar"

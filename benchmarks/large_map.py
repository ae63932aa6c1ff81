"""`amodal view` of a million records in a browser that draws in software: from the address to the
map and to its colours, and one frame while the map is dragged. No peer; the goals are 10 s and
100 ms.

The records have one table, and vectors of 64 numbers around twelve centres. The server is in the
process of the benchmark, so that it shares its cores with the browser.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright

import amodal
from amodal.core import Column, Embeddings
from amodal.serve import app
from amodal.serve.view import router
from benchmarks._timing import Row
from tests.serve.runs import running

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DRAGS = 60
RECORDS = 1_000_000
ONLY_BY_NAME = True
FPS = """async (drags) => {
  const canvas = document.querySelector(".stage canvas"), box = canvas.getBoundingClientRect();
  const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, { pointerId: 1, clientX: box.left + x, clientY: box.top + 200, bubbles: true }));
  canvas.setPointerCapture = () => {};
  send("pointerdown", 300);
  const begun = performance.now();
  for (let i = 0; i < drags; i++) { send("pointermove", 300 + (i % 20) * 5); await new Promise(requestAnimationFrame); }
  const seconds = (performance.now() - begun) / 1000;
  send("pointerup", 300);
  return drags / seconds;
}"""


def filled(folder: Path, n: int) -> tuple[amodal.Model, amodal.Dataset]:
    """A run, and the n records of its index."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 12, n)
    columns = {"cells": [{"a": float(i % 997), "b": float(i % 13)} for i in range(n)]}
    dataset = amodal.open(columns, fields={"cells": "table"})
    few = dataset.subset(range(64))
    model = amodal.pretrain("simclr", few, folder / "run", size="nano", steps=2, batch_size=16)
    centres = torch.randn(12, 64) * 0.3
    index = model.open_index()
    labels = {"kind": np.array([f"kind {k}" for k in range(12)], dtype=object)[kind]}
    for start in range(0, n, 50_000):
        rows = slice(start, start + 50_000)
        z = centres[kind[rows]] + torch.randn(len(kind[rows]), 64) * 0.15
        made = Embeddings({"cells": Column(z, torch.arange(len(z)))}, len(z))
        index.add(dataset.keys[rows], made, {name: v[rows] for name, v in labels.items()})
    return model, dataset


def run() -> list[Row]:
    n = RECORDS
    folder = Path(tempfile.mkdtemp())
    rows = []

    def note(what: str, seconds: float) -> None:
        rows.append(Row(what, "", math.nan, 1000 * seconds, math.nan, 0, 0, (math.nan,) * 2))

    try:
        model, dataset = filled(folder, n)
        begun = time.perf_counter()
        made = app(model)
        made.include_router(router(model.path, service=made.state.service, dataset=dataset))
        note(f"{n:,} records: start of the server", time.perf_counter() - begun)
        system = shutil.which("chromium") or shutil.which("google-chrome")
        with running(made) as port, sync_playwright() as p:
            browser = p.chromium.launch(args=FLAGS, executable_path=system)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.set_default_timeout(300_000)
            for visit in ("first visit", "second visit"):
                begun = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/")
                page.wait_for_selector(f".stage[data-points='{n}']")
                note(f"{visit}: from the address to the map", time.perf_counter() - begun)
                page.wait_for_selector("[data-code]")
                note(f"{visit}: from the address to its colours", time.perf_counter() - begun)
            note("a frame while it is dragged", 1 / page.evaluate(FPS, DRAGS))
            browser.close()
    finally:
        shutil.rmtree(folder)
    return rows

"""Twenty steps of each command of docs/recipes.md that reads pictures, or pictures with captions:
the papers' network, resolution, views and heads, with batches of four. No peer. A command that ends
in an error, or with a loss that is not finite, ends the benchmark.

Pictures are OpenMoji's, enlarged; what is learnt in twenty steps says nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from PIL import Image

import amodal
from benchmarks._timing import Row

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "recipes.md"
ONLY_BY_NAME = True
STEPS, BATCH, RECORDS, SIDE = 20, 4, 32, 256
DATA = ("images", "pairs")


def commands() -> dict[str, list[str]]:
    """Title of a section -> the words of its command behind `amodal`."""
    page = PAGE.read_text(encoding="utf-8")
    sections = re.findall(
        r"^## (.+?)\n.*?```console\namodal (pretrain .+?)\n```", page, re.M | re.S
    )
    found = {title: shlex.split(command) for title, command in sections}
    return {title: words for title, words in found.items() if value(words, "--data") in DATA}


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def filled(folder: Path) -> None:
    """Pictures, and the same with captions."""
    emoji = amodal.open("openmoji")
    captions = []
    for name in DATA:
        (folder / name).mkdir()
        for i in range(RECORDS):
            pixels_CHW = emoji.value(i, "image")
            picture = Image.fromarray(pixels_CHW.transpose(1, 2, 0)).resize((SIDE, SIDE))
            picture.save(folder / name / f"{i:03d}.jpg")
            captions.append(
                {"image": f"{i:03d}.jpg", "caption": bytes(emoji.value(i, "annotation")).decode()}
            )
    pd.DataFrame(captions[:RECORDS]).to_csv(folder / "pairs" / "records.csv", index=False)


def steps_of(title: str, words: list[str], folder: Path) -> Row:
    """Run one command for a few steps in a process of its own.

    Raises:
        RuntimeError: If it fails, or its loss is not finite.
    """
    run = folder / re.sub(r"\W+", "_", title)
    data = value(words, "--data")
    small = ["--batch-size", str(BATCH), "--steps", str(STEPS), "--out", str(run), "--seed", "0"]
    for option in ("--batch-size", "--epochs"):
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    words = [str(folder / data) if word == data else word for word in words]
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "amodal", *words, *small], stdout=out, stderr=out
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{title}: {log.read_text(encoding='utf-8')[-2000:]}")
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text.splitlines()]
    losses = {e["step"]: e["loss"] for e in entries if "loss" in e}
    if not losses or max(losses) != STEPS or not all(map(math.isfinite, losses.values())):
        raise RuntimeError(f"{title}: losses by step are {losses}")
    seconds = {e["step"]: e["seconds"] for e in entries if "seconds" in e}
    per_step = (seconds[STEPS] - seconds[1]) / (STEPS - 1)
    first, last = losses[1], losses[STEPS]
    nan = math.nan
    return Row(
        title,
        "",
        nan,
        1000 * per_step,
        nan,
        used.ru_maxrss / 1024,
        nan,
        (nan, nan),
        note=f"loss {first:.3f} at step 1, {last:.3f} at step {STEPS}; batch {BATCH}",
    )


def run() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled(folder)
        for title, words in commands().items():
            rows.append(steps_of(title, words, folder))
            print(f"{title}: {rows[-1].ours_ms / 1000:.1f} s a step, {rows[-1].note}", flush=True)
    return rows

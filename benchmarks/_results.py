"""What a run of a benchmark leaves: NAME.json with all that is needed to read the numbers, and
NAME.png."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

from amodal.search._log import write_atomically
from benchmarks._limits import limits
from benchmarks._timing import Row

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "results"
PEERS = (
    "timm",
    "torchvision",
    "lightly",
    "open_clip_torch",
    "transformers",
    "pytorch-metric-learning",
    "scikit-learn",
    "faiss-cpu",
)
"""Distributions whose versions are written down; a benchmark with other peers names them in its own
PEERS."""


def write(
    name: str, about: str, rows: Sequence[Row], folder: Path, peers: Sequence[str] = ()
) -> Path:
    """NAME.json in the folder, whole or not at all."""
    entry = {
        "name": name,
        "about": about,
        **environment(peers),
        "rows": [plain(row) for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, (json.dumps(entry, indent=1) + "\n").encode())
    return path


def read(folder: Path = FOLDER) -> list[dict]:
    return [read_one(path) for path in sorted(folder.glob("*.json"))]


def read_one(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def plain(row: Row) -> dict:
    """Without what was not measured, which JSON has no number for."""
    fields = asdict(row) | {"memory": row.memory}
    fields["spread"] = [ratio for ratio in row.spread if math.isfinite(ratio)]
    measured = {
        k: v
        for k, v in fields.items()
        if v not in ("", []) and not (isinstance(v, float) and not math.isfinite(v))
    }
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in measured.items()}


def environment(peers: Sequence[str] = ()) -> dict:
    threads = torch.get_num_threads()
    most = limits(threads)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "machine": machine(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions(["torch", "numpy", *PEERS, *peers]),
        "limits": {
            "f32 GFLOP/s": round(most.f32 / 1e9, 1),
            "bf16 GFLOP/s": round(most.bf16 / 1e9, 1),
            "memory GB/s": round(most.memory / 1e9, 1),
        },
    }


def commit() -> str:
    """Of the working tree, with a plus where the code has changed since; empty outside a
    repository."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "amodal", "benchmarks/*.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> str:
    """The processor and its cores, or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
        )
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

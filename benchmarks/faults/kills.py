"""kill -9 at random moments, go on with the same command, and compare with what was never stopped,
byte for byte.

Half of the moments are drawn uniformly from the wall time of the straight run, half fall inside a
write: the harness waits for a draft to appear and kills a few milliseconds later. A quarter of the
runs are killed twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from amodal.progress import Bar

WRITE = 0.03
"""Seconds after the beginning of a write within which it is killed; a checkpoint of the nano
encoder takes about 20 ms."""
TIMES = ("seconds", "rows_per_second", "data_wait")
"""Of metrics.jsonl, what depends on the machine."""
STEPS, EVERY = 160, 4
"""Of a run to kill, and between two checkpoints."""


@dataclass(frozen=True)
class Job:
    """command: what a user types; resumed: what the user types after a kill; writing: whether a
    write is going on, by looking at the disk; content: name -> digest of all that counts in the
    result; intact: raises if what was there before is harmed; results: folders that it writes;
    begins_with: what is in them before."""

    command: list[str]
    resumed: Callable[[], list[str]]
    writing: Callable[[], bool]
    content: Callable[[], dict[str, str]]
    intact: Callable[[], None]
    results: tuple[Path, ...]
    begins_with: Path | None = None


def data(root: Path, records: int, rng: np.random.Generator) -> Path:
    """Pictures with captions, some of them damaged, so that there is something in quarantine."""
    root.mkdir(parents=True)
    for i in range(records):
        colour = rng.integers(0, 256, 3)
        noise = (rng.normal(0, 25, (16, 16, 3)) + colour).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(root / f"{i:05d}.png")
        if i % 3:
            (root / f"{i:05d}.txt").write_text(
                f"colour {' '.join(map(str, colour))}, number {i}", encoding="utf-8"
            )
        if i % 17 == 0:
            whole = (root / f"{i:05d}.png").read_bytes()
            (root / f"{i:05d}.png").write_bytes(whole[: len(whole) // 2])
    return root


def table(root: Path, records: int, rng: np.random.Generator, word: str = "number") -> Path:
    """The same kind of records in one table, cheap to read, enough for several chunks and commits."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = []
    for i in range(64):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "png")
        pictures.append(file.getvalue() if i % 17 else file.getvalue()[:80])
    root.mkdir(parents=True)
    cells = {
        "id": [f"r{i:06d}" for i in range(records)],
        "image": [pictures[i % 64] if i % 4 == 0 else None for i in range(records)],
        "text": [f"{word} {i} of many" for i in range(records)],
    }
    pq.write_table(pa.table(cells), root / "records.parquet", row_group_size=1024)
    fields = "\n".join(f'[fields.{name}]\nmodality = "{name}"' for name in ("image", "text"))
    (root / "dataset.toml").write_text(
        f'records = "records.parquet"\nkey = "id"\n{fields}\nmax_length = 32\npatch = 4\n',
        encoding="utf-8",
    )
    return root


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def pretraining(where: Path, source: Path, out: Path, steps: int = STEPS) -> Job:
    options = [
        "--size",
        "nano",
        "--steps",
        str(steps),
        "--checkpoint-every",
        str(EVERY),
        "--batch",
        "16",
        "--seed",
        "1",
    ]
    command = ["pretrain", "clip", "--data", str(source), "--out", str(out), *options]

    def writing() -> bool:
        folders = (out, out / "checkpoints")
        return any(
            f.name.endswith(".draft")
            for folder in folders
            if folder.is_dir()
            for f in os.scandir(folder)
        )

    def content() -> dict[str, str]:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        found = {"model.safetensors": digest(out / "model.safetensors"), "status": config["status"]}
        found["promised"] = config["weights_sha256"]
        entries = [
            json.loads(line)
            for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        untimed = [{k: v for k, v in e.items() if k not in TIMES} for e in entries]
        found["metrics"] = json.dumps(untimed)
        found["quarantine"] = "\n".join(
            sorted((out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines())
        )
        found["trained.npy"] = digest(out / "trained.npy")
        last = sorted((out / "checkpoints").glob("step-*"))[-1]
        found["checkpoint"] = last.name + "".join(
            digest(last / f"{n}.safetensors") for n in ("model", "optimizer")
        )
        return found

    def intact() -> None:
        from safetensors.torch import load_file

        for folder in sorted((out / "checkpoints").glob("step-*"))[-1:]:
            for name in ("model", "optimizer"):
                load_file(folder / f"{name}.safetensors")
            json.loads((folder / "state.json").read_text(encoding="utf-8"))

    def resumed() -> list[str]:
        return [*command, "--resume"] if (out / "config.json").exists() else command

    return Job(command, resumed, writing, content, intact, (out,))


def embedding(where: Path, source: Path, out: Path) -> Job:
    file = out / "vectors.parquet"
    command = ["embed", str(where / "model"), "--data", str(source), "--out", str(file)]

    def writing() -> bool:
        folders = (out, out / ".vectors.parquet.parts")
        return any(
            f.name.endswith(".draft")
            for folder in folders
            if folder.is_dir()
            for f in os.scandir(folder)
        )

    def intact() -> None:
        import pyarrow.parquet as pq

        for part in (out / ".vectors.parquet.parts").glob("*.parquet"):
            pq.read_table(part)

    return Job(command, lambda: command, writing, lambda: {"vectors": digest(file)}, intact, (out,))


def indexing(where: Path, source: Path, out: Path, base: Path | None = None) -> Job:
    """base: of an index that is there already, to be brought up to date; records that are gone are
    removed, and as most have changed the log is written anew."""
    folder = out / "index"
    command = ["index", str(where / "model"), "--data", str(source), "--out", str(folder)] + (
        ["--prune"] if base else []
    )
    sizes: dict[str, int] = {}

    def writing() -> bool:
        """A file of the log has grown."""
        before = dict(sizes)
        if folder.is_dir():
            sizes.update({f.name: f.stat().st_size for f in os.scandir(folder) if f.is_file()})
        return sizes != before and any(name.startswith("records.") for name in sizes)

    def content() -> dict[str, str]:
        return {f.name: digest(f) for f in sorted(folder.iterdir()) if not f.name.startswith(".")}

    def intact() -> None:
        from amodal.search import Index

        found = Index.open(folder)
        for source_name in found.sources:
            assert len(found.log.vectors(source_name)[0]) <= len(found) * 2

    return Job(command, lambda: command, writing, content, intact, (out,), base)


JOBS = {"pretrain": pretraining, "embed": embedding, "index": indexing, "reindex": indexing}


def start(words: list[str], log: Path) -> subprocess.Popen:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "amodal", *words], stdout=said, stderr=said, env=settings
        )


def straight(job: Job, log: Path) -> float:
    """Seconds of wall time. Raises RuntimeError if the command fails."""
    begun = time.monotonic()
    if start(job.command, log).wait():
        raise RuntimeError(f"the straight run failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return time.monotonic() - begun


def repeated(job: Job, wanted: dict[str, str], log: Path) -> float:
    """A second straight run, which must come out as the first. Seconds."""
    _clear(job)
    seconds = straight(job, log)
    if job.content() != wanted:
        raise RuntimeError(
            "two straight runs differ, so that nothing can be said of those that are killed"
        )
    return seconds


def _clear(job: Job) -> None:
    for path in job.results:
        shutil.rmtree(path, ignore_errors=True)
        if job.begins_with:
            shutil.copytree(job.begins_with, path)
        elif job.command[0] != "pretrain":
            path.mkdir()


def killed(job: Job, words: list[str], moment: float, into_write: float | None, log: Path) -> bool:
    """Start, and kill at `moment` or, from then on, `into_write` seconds into the next write. False
    if it was done before that."""
    begun, process = time.monotonic(), start(words, log)
    job.writing()
    while process.poll() is None and time.monotonic() - begun < moment:
        time.sleep(0.002)
    while into_write is not None and process.poll() is None and not job.writing():
        time.sleep(0.0003)
    if into_write:
        time.sleep(into_write)
    process.kill()
    process.wait()
    return process.returncode == -9


def trial(job: Job, seconds: float, wanted: dict[str, str], rng: random.Random, log: Path) -> dict:
    """One run killed once or twice and gone on with; `wrong`: what differs from the straight run. A
    run that was done before the moment came is started again."""
    while True:
        found = _trial(job, seconds, wanted, rng, log)
        if found["wrong"] or any(m["killed"] for m in found["moments"]):
            return found


def _trial(job: Job, seconds: float, wanted: dict[str, str], rng: random.Random, log: Path) -> dict:
    _clear(job)
    log.write_bytes(b"")
    moments, words, wrong = [], job.command, []
    for _ in range(1 + (rng.random() < 0.25)):
        into_write = rng.random() * WRITE if rng.random() < 0.5 else None
        moment = rng.random() * seconds * (0.9 if into_write is not None else 1.0)
        hit = killed(job, words, moment, into_write, log)
        moments.append(
            {
                "at": round(moment, 3),
                "into_write": into_write and round(into_write, 4),
                "killed": hit,
            }
        )
        try:
            job.intact()
        except Exception as error:  # whatever it is, something was harmed
            wrong.append(f"after the kill: {type(error).__name__}: {error}")
        words = job.resumed()
    code = start(words, log).wait()
    if code:
        wrong.append(
            f"the resumed run ended with {code}: {log.read_text(encoding='utf-8')[-1500:]}"
        )
    else:
        found = job.content()
        wrong += [
            f"{name} differs"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
    return {"moments": moments, "wrong": wrong}


def run(
    counts: dict[str, int],
    where: Path,
    *,
    seed: int = 0,
    records: int = 12_288,
    steps: int = STEPS,
    twice: bool = True,
    shown: bool = True,
) -> dict:
    """counts: job -> runs to kill; records: to embed and index; steps: of the runs that train;
    twice: make the straight run twice, to see that it is always the same. Returns job -> {seconds,
    trials, killed, in_write, wrong}."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    pictures, rows = data(where / "pictures", 240, numbers), table(where / "rows", records, numbers)
    results: dict[str, dict] = {}
    changed = table(where / "changed", records * 9 // 10, numbers, "item")
    if any(counts.get(name) for name in ("embed", "index", "reindex")):
        small = [
            "pretrain",
            "clip",
            "--data",
            str(rows),
            "--out",
            str(where / "model"),
            "--size",
            "nano",
            "--steps",
            "2",
        ]
        if start(small, where / "log.txt").wait():
            raise RuntimeError((where / "log.txt").read_text(encoding="utf-8")[-3000:])
    for name, count in counts.items():
        if not count:
            continue
        more = (
            {"steps": steps}
            if name == "pretrain"
            else {"base": where / "base"}
            if name == "reindex"
            else {}
        )
        job = JOBS[name](
            where, {"pretrain": pictures, "reindex": changed}.get(name, rows), where / "out", **more
        )
        if name == "reindex":
            first = indexing(where, rows, where / "base")
            (where / "base").mkdir()
            straight(first, where / "log.txt")
        _clear(job)
        seconds = straight(job, where / "log.txt")
        wanted, trials = job.content(), []
        if twice:
            seconds = min(seconds, repeated(job, wanted, where / "log.txt"))
        with Bar(f"kill -9 {name}", count, shown=shown) as bar:
            for _ in range(count):
                trials.append(trial(job, seconds, wanted, rng, where / "log.txt"))
                bar.step(f"{sum(bool(t['wrong']) for t in trials)} wrong")
        moments = [m for t in trials for m in t["moments"]]
        results[name] = {
            "straight_seconds": round(seconds, 2),
            "runs": count,
            "kills": sum(m["killed"] for m in moments),
            "kills_in_a_write": sum(m["killed"] and m["into_write"] is not None for m in moments),
            "wrong": [t for t in trials if t["wrong"]],
            "moments": moments,
        }
    return results

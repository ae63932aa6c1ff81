"""Coverage-guided fuzzing of everything that reads what somebody else wrote (atheris: libFuzzer for
Python; Linux).

Each target runs in a process of its own for its share of the time, from a corpus of good files. It
must end in a value or in an AmodalError; anything else, more than 3 GiB, and more than 20 s for one
input are faults, and the input is kept.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from amodal.progress import Bar
from benchmarks.faults.corruptions import GOOD

LIMITS = ("-rss_limit_mb=3072", "-timeout=20", "-max_len=65536", "-print_final_stats=1")
ROOT = Path(__file__).parents[2]


def decoder(kind: str) -> Callable[[bytes], object]:
    """A field of this kind, given the bytes of a file; and what is measured from it."""
    from amodal import modalities

    rng = np.random.default_rng(0)
    cls = modalities.kind(kind)
    modality = cls.infer([make(rng) for make in GOOD[kind].values()])

    def run(content: bytes) -> None:
        value = modality.decode(content)
        modality.describe(value)
        modality.collate([value])

    return run


def source(name: str) -> Callable[[bytes], object]:
    """A table or an archive with these bytes, opened and read to its end."""
    from benchmarks.faults import containers

    folder = Path(tempfile.mkdtemp(prefix="amodal-fuzz-"))
    file = containers.SOURCES[name](folder, np.random.default_rng(0))

    def run(content: bytes) -> None:
        file.write_bytes(content)
        containers.contents(folder)

    return run


def toml() -> Callable[[bytes], object]:
    from amodal.data import schema

    return lambda content: schema.loads(content.decode("utf-8", "replace"))


def config() -> Callable[[bytes], object]:
    """config.json of a run."""
    import amodal
    from benchmarks.faults.runs import small_run

    run_folder = small_run(Path(tempfile.mkdtemp(prefix="amodal-fuzz-")))

    def run(content: bytes) -> None:
        (run_folder / "config.json").write_bytes(content)
        amodal.load(run_folder, device="cpu")

    return run


TARGETS: dict[str, Callable[[], Callable[[bytes], object]]] = {
    **{kind: lambda kind=kind: decoder(kind) for kind in GOOD},
    **{
        name: lambda name=name: source(name)
        for name in ("csv", "json", "jsonl", "parquet", "tar", "huggingface", "zarr", "dicom")
    },
    "dataset.toml": toml,
    "config.json": config,
}


def seeds(name: str, folder: Path) -> None:
    """Good files to begin with."""
    from benchmarks.faults import containers

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    if name in GOOD:
        for ending, make in GOOD[name].items():
            (folder / f"good{ending}").write_bytes(make(rng))
    elif name in containers.SOURCES:
        with tempfile.TemporaryDirectory() as other:
            (folder / "good").write_bytes(containers.SOURCES[name](Path(other), rng).read_bytes())
    elif name == "dataset.toml":
        with tempfile.TemporaryDirectory() as other:
            containers.parquet(Path(other), rng, False)
            (folder / "good").write_bytes((Path(other) / "dataset.toml").read_bytes())
    else:
        from benchmarks.faults.runs import small_run

        with tempfile.TemporaryDirectory() as other:
            run = small_run(Path(other))
            (folder / "good").write_bytes((run / "config.json").read_bytes())


def fuzz(name: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import logging
    import warnings

    import atheris

    with atheris.instrument_imports(
        include=["amodal.modalities", "amodal.data", "amodal.nn.saved", "amodal.nn.config"]
    ):
        import amodal.data
        import amodal.model  # noqa: F401
    from amodal.core import AmodalError

    warnings.simplefilter("ignore")
    logging.disable()
    target = TARGETS[name]()

    def one(content: bytes) -> None:
        try:
            target(content)
        except AmodalError:
            pass

    atheris.Setup([name, *arguments], one)
    atheris.Fuzz()


def run(
    seconds: float, where: Path, *, seed: int = 0, names=tuple(TARGETS), shown: bool = True
) -> dict:
    """Seconds in all. Returns target -> inputs tried, and what is wrong."""
    share, tried, wrong = max(1, round(seconds / len(names))), {}, []
    with Bar("fuzz", len(names), shown=shown) as bar:
        for name in names:
            corpus = where / "corpus" / name
            seeds(name, corpus)
            options = [
                *LIMITS,
                f"-max_total_time={share}",
                f"-seed={seed + 1}",
                f"-artifact_prefix={where}/{name}-",
            ]
            command = [sys.executable, "-m", "benchmarks.faults.fuzz", name, str(corpus), *options]
            # By a shell of its own: the most memory of a process, which libFuzzer looks at, begins
            # with that of the process that started it.
            command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
            done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=share * 3 + 180)
            said = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
            found = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
            tried[name] = int(found[-1]) if found else 0
            if done.returncode or not found:
                inputs = [p.read_bytes()[:2000].hex() for p in where.glob(f"{name}-*")]
                wrong.append({"target": name, "fault": said[-3000:], "input": inputs})
            bar.step(f"{len(wrong)} wrong")
    return {
        "seconds": share * len(names),
        "inputs": tried,
        "all_inputs": sum(tried.values()),
        "wrong": wrong,
    }


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])

"""Damaged files through the loader, as a run would meet them: nothing crashes, hangs or fills the
memory, every value that is lost is in the quarantine file, and where a format has checksums none
comes out changed.

Each file is one record of a folder; a child process reads them one by one, so that a crash or a
hang costs one file and is counted.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from amodal import data, modalities
from amodal.data import schema
from amodal.data.quarantine import Quarantine, read
from amodal.progress import Bar
from benchmarks.faults import containers
from benchmarks.faults.corruptions import BOMBS, CHECKED, CORRUPTIONS, GOOD, MORE_BOMBS

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds for one file, after which it counts as a hang; the slowest takes less than two."""
MEMORY = 1536 * 2**20
"""Bytes that one file may take beside what the process has: Pillow's limit of 89 million pixels is
360 MB of colours, twice."""


def build(root: Path, count: int, rng: np.random.Generator) -> dict[str, list[dict]]:
    """Folders of damaged files, one for each modality, with a dataset.toml that says what they
    were. Returns modality -> cases."""
    cases: dict[str, list[dict]] = {kind: [] for kind in GOOD}
    kinds = [(kind, ending) for kind, endings in GOOD.items() for ending in endings]
    for kind, endings in GOOD.items():
        folder = root / kind
        folder.mkdir(parents=True)
        good = [make(rng) for make in endings.values() for _ in range(3)]
        modality = modalities.kind(kind).infer([_as_raw(kind, content) for content in good])
        field = schema.Field(
            modality,
            suffix=tuple({e.lower() for e in (*endings, *BOMBS[kind], *MORE_BOMBS.get(kind, {}))}),
        )
        (folder / "dataset.toml").write_text(
            schema.dumps(schema.Schema({kind: field})), encoding="utf-8"
        )
        for ending, make in (*BOMBS[kind].items(), *MORE_BOMBS.get(kind, {}).items()):
            _add(folder, kind, cases, ending, make(), b"", "bomb")
    for i in range(count):
        kind, ending = kinds[i % len(kinds)]
        damage = (
            CORRUPTIONS[(i // len(kinds)) % (len(CORRUPTIONS) + 1)]
            if (i // len(kinds)) % (len(CORRUPTIONS) + 1) < len(CORRUPTIONS)
            else None
        )
        whole = GOOD[kind][ending](rng)
        if damage is None:  # the content of another kind of file
            other = kinds[int(rng.integers(len(kinds)))]
            _add(
                root / kind,
                kind,
                cases,
                ending,
                GOOD[other[0]][other[1]](rng),
                b"",
                f"content of {other[1]}",
            )
        else:
            _add(root / kind, kind, cases, ending, damage(whole, rng), whole, damage.__name__)
    return cases


def _as_raw(kind: str, content: bytes):
    return content


def _add(
    folder: Path, kind: str, cases: dict, ending: str, content: bytes, whole: bytes, damage: str
) -> None:
    name = f"{len(cases[kind]):05d}"
    (folder / f"{name}{ending}").write_bytes(content)
    modality = data.schema.load(folder / "dataset.toml").fields[kind].modality if whole else None
    before = _digest(modality.decode(whole)) if whole else ""
    bare = CHECKED.get(ending)
    checked = bare is not None and content[:bare] == whole[:bare]
    cases[kind].append(
        {"key": name, "ending": ending, "damage": damage, "before": before, "checked": checked}
    )


def _digest(value: np.ndarray) -> str:
    return hashlib.blake2b(
        repr(value.shape).encode() + np.ascontiguousarray(value).tobytes(), digest_size=8
    ).hexdigest()


def child(folder: Path, kind: str, first: int) -> None:
    """A line of JSON for each of `outcomes`."""
    for entry in outcomes(folder, kind, first):
        print(json.dumps(entry), flush=True)


def outcomes(folder: Path, kind: str, first: int = 0):
    """Read the records of a folder from number `first` on, as a run does: an entry before and one
    after each. What cannot be read is written to the quarantine file at once."""
    dataset = data.open(folder)
    loader = data.Loader(dataset, range(len(dataset)), batch=1, shuffle=False, cache_bytes=0)
    quarantine = Quarantine()
    for i in range(first, len(dataset)):
        yield {"start": i}
        before, begun = _resident(), time.monotonic()
        _forget_peak()
        batch, bad = loader.load(i)
        grown = _peak() - before
        quarantine.add(bad)
        quarantine.append_to(folder / ".quarantine.jsonl")
        there = len(batch[kind]) > 0
        value = dataset.value(i, kind) if there else None
        entry = {
            "done": i,
            "key": dataset.keys[i],
            "bad": bad[0].reason if bad else "",
            "value": _digest(value) if there else "",
        }
        yield entry | {"seconds": round(time.monotonic() - begun, 3), "grown": grown}


def _resident() -> int:
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def _status(name: str) -> int:
    """Bytes, by the kernel; 0 where there is no such file (then memory is not looked at)."""
    file = Path("/proc/self/status")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        pass


def watched(folder: Path, kind: str, count: int, seen) -> list[dict]:
    """The outcome of every record of a folder, whatever becomes of the processes that read it."""
    found: list[dict] = []
    first = 0
    while first < count:
        command = [sys.executable, "-c", f"import sys; from benchmarks.faults.media import child; from pathlib import Path; "
                   f"child(Path({str(folder)!r}), {kind!r}, {first})"]  # fmt: skip
        said = folder / f".said-{first}.txt"
        with (
            said.open("w", encoding="utf-8") as out,
            (folder / ".errors.txt").open("a", encoding="utf-8") as errors,
        ):
            process = subprocess.Popen(command, stdout=out, stderr=errors, cwd=ROOT)
        begun, lines = time.monotonic(), 0
        while process.poll() is None:
            time.sleep(0.02)
            now = said.read_text(encoding="utf-8").count("\n")
            if now != lines:
                seen((now // 2) - (lines // 2))
                begun, lines = time.monotonic(), now
            elif time.monotonic() - begun > PATIENCE + (20 if not lines else 0):
                process.kill()
                process.wait()
        entries = [
            json.loads(line)
            for line in said.read_text(encoding="utf-8").splitlines()
            if line.endswith("}")
        ]
        found += [e for e in entries if "done" in e]
        started = max((e["start"] for e in entries if "start" in e), default=None)
        if process.returncode == 0:
            seen(max(0, sum("done" in e for e in entries) - lines // 2))
            break
        if started is None:
            raise RuntimeError((folder / ".errors.txt").read_text(encoding="utf-8")[-3000:])
        what = "hang" if process.returncode == -9 else f"crash ({process.returncode})"
        found.append({"done": started, "key": f"{started:05d}", "fault": what})
        first = started + 1
    return found


def run(count: int, where: Path, *, seed: int = 0, apart: bool = True, shown: bool = True) -> dict:
    """`count` damaged files: four of five media, the others tables and archives. Returns counts of
    outcomes and what is wrong. apart: read in processes of their own, which may crash and hang;
    False reads here, which is quicker for a few."""
    rng = np.random.default_rng(seed)
    cases = build(where / "media", count * 4 // 5, rng)
    total = sum(map(len, cases.values()))
    ends: Counter = Counter()
    wrong: list[dict] = []
    undetected: dict[str, Counter] = {}
    slowest = grown = 0.0
    with Bar("damaged files", total, shown=shown) as bar:
        for kind, known in cases.items():
            folder = where / "media" / kind
            note = lambda n: bar.step(f"{len(wrong)} wrong", by=n)  # noqa: E731
            entries = watched(folder, kind, len(known), note) if apart else outcomes(folder, kind)
            found = {e["key"]: e for e in entries if "done" in e}
            quarantined = {bad.key for bad in read(folder / ".quarantine.jsonl")}
            for case in known:
                entry = found.get(case["key"], {"fault": "no outcome"})
                outcome, fault = judge(case, entry, quarantined)
                ends[outcome] += 1
                slowest, grown = (
                    max(slowest, entry.get("seconds", 0)),
                    max(grown, entry.get("grown", 0)),
                )
                if outcome == "changed":
                    undetected.setdefault(case["ending"], Counter())[case["damage"]] += 1
                if fault:
                    wrong.append(case | entry | {"kind": kind, "fault": fault})
    result = {
        "files": total,
        "outcomes": dict(ends),
        "slowest_seconds": slowest,
        "most_memory_mib": round(grown / 2**20),
        "changed_without_notice": {ending: dict(c) for ending, c in sorted(undetected.items())},
        "wrong": wrong,
    }
    result["containers"] = containers.run(
        count - count * 4 // 5, where / "containers", rng, shown=shown
    )
    result["wrong"] += result["containers"].pop("wrong")
    return result


def judge(case: dict, entry: dict, quarantined: set[str]) -> tuple[str, str]:
    """(outcome, fault): outcome is quarantined, same, changed or read (nothing to compare with);
    fault is "" where all is well."""
    if "fault" in entry:
        return "fault", entry["fault"]
    if entry["grown"] > MEMORY:
        return "fault", f"{entry['grown'] / 2**20:.0f} MiB of memory"
    if entry["bad"]:
        return "quarantined", "" if case["key"] in quarantined else "not in the quarantine file"
    if not entry["value"]:
        return "fault", "lost without a word"
    if case["key"] in quarantined:
        return "fault", "in quarantine and read all the same"
    if not case["before"]:
        return "read", ""
    if entry["value"] == case["before"]:
        return "same", ""
    return "changed", "a changed value in a format with checksums" if case["checked"] else ""

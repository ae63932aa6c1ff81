"""Whether another revision gives the same losses, bit for bit: for refactors that should change none.

python scripts/same_loss.py BASE_REV [REV] [--only clip,mae] [--steps 2]

Every method is trained for some steps at size nano on generated records, once by the code of BASE_REV and once by that of REV (or
as it stands in the working tree), each in a process of its own, with a revision's code in a temporary folder (`git worktree`). The
exit code is 1 if any loss differs or a method went missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LOSSES = """
import json, os, sys, warnings
import torch
import amodal
warnings.simplefilter("ignore")
torch.set_num_threads(1)
from amodal import methods
from amodal.methods._contract import Clock
from amodal.train.optim import adamw
from amodal.train.step import gradients
from tests.methods.bench import batch, method

assert os.path.realpath(amodal.__file__).startswith(os.path.realpath(os.getcwd())), f"other code runs: {amodal.__file__}"
only, steps = sys.argv[1].split(",") if sys.argv[1] else None, int(sys.argv[2])
for name in methods.names():
    if only and name not in only:
        continue
    found = []
    try:
        m = method(name).train()
        m.begin(0)
        optimizer = adamw(m, lr=1e-3)
        for step in range(1, steps + 1):
            torch.manual_seed(step)
            optimizer.zero_grad(set_to_none=True)
            terms = gradients(m, batch(m.views, seed=step))
            optimizer.step()
            m.tick(Clock(step, steps))
            found += [[f"{step} {n}", float(t).hex()] for n, t in sorted(terms.items())]
        total = sum(float(p.detach().double().abs().sum()) for p in m.parameters())
        found.append(["weights", total.hex()])
    except Exception as error:
        found = [["error", f"{type(error).__name__}: {error}"]]
    print(json.dumps([name, found]), flush=True)
"""
"""Runs in both revisions, so it may use only what both have: the contract of a method, and the bench of its tests."""


def losses(code: Path, only: str, steps: int) -> dict[str, list[list[str]]]:
    """method -> [[what, value in hexadecimal], …] by the code in this folder."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    call = [sys.executable, "-c", LOSSES, only, str(steps)]
    done = subprocess.run(call, cwd=code, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the code in {code} does not run:\n{done.stderr[-2000:]}")
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


def at(revision: str, folder: Path) -> Path:
    """A copy of the code at a revision."""
    place = folder / revision.replace("/", "-")
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", str(place), revision], cwd=ROOT, capture_output=True, text=True
    )
    if made.returncode:
        raise SystemExit(f"git has no revision {revision!r}: {made.stderr.strip()}")
    return place


def compared(before: dict, after: dict) -> list[tuple[str, str, str]]:
    """(method, verdict, the first value that differs) for every method of either."""
    lines = []
    for name in sorted(before | after):
        if name not in before or name not in after:
            lines.append((name, "new" if name in after else "gone", ""))
            continue
        old, new = dict(before[name]), dict(after[name])
        other = next((k for k in [*old, *new] if old.get(k) != new.get(k)), None)
        shown = "" if other is None else f"{other}: {_number(old.get(other))} -> {_number(new.get(other))}"
        fails = "error" in old and other is None
        lines.append((name, "fails in both" if fails else "same" if other is None else "differs", shown))
    return lines


def _number(value: str | None) -> str:
    if value is None:
        return "none"
    try:
        return repr(float.fromhex(value))
    except ValueError:
        return value[:60]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("revision", nargs="?", help="the working tree unless given")
    parser.add_argument("--only", default="", help="methods, with commas between")
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="same-loss-") as folder:
        places = []
        try:
            for revision in filter(None, (asked.base, asked.revision)):
                places.append(at(revision, Path(folder) / str(len(places))))
            before = losses(places[0], asked.only, asked.steps)
            after = losses(places[1] if asked.revision else ROOT, asked.only, asked.steps)
        finally:
            for place in places:
                subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, capture_output=True)
    lines = compared(before, after)
    wide = max((len(name) for name, *_ in lines), default=0)
    for name, verdict, shown in lines:
        print(f"{name:{wide}}  {verdict:13}  {shown}".rstrip())
    counts = {verdict: sum(v == verdict for _, v, _ in lines) for _, verdict, _ in lines}
    print(
        f"{asked.base} and {asked.revision or 'the working tree'}: {', '.join(f'{n} {v}' for v, n in counts.items())}"
    )
    return int(not lines or any(v in ("differs", "gone", "fails in both") for _, v, _ in lines))


if __name__ == "__main__":
    sys.exit(main())

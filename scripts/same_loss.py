"""Whether another revision learns the same, bit for bit: for refactors that should change nothing.

python scripts/same_loss.py BASE_REV [REV] [--only clip,mae] [--steps 2] [--tolerance 0]

Every method is trained for some steps of each of its stages at size nano on generated records, once
by the code of BASE_REV and once by that of REV (or as it stands in the working tree), each in a
process of its own. Both begin with the weights of BASE_REV. Compared are each term of the loss, the
gradient of each parameter, each parameter and buffer after each step, and the embeddings of other
records at the end; names are mapped where parts have moved.

Each revision brings its own driver, scripts/loss_trace.py; revisions from before it use
scripts/loss_trace_base.py. The traces of BASE_REV are kept in --traces, so that they are made once.
The exit code is 1 if anything differs or a method went missing.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
BASE_DRIVER = ROOT / "scripts" / "loss_trace_base.py"


def trace(code: Path, out: Path, only: str, steps: int, base: Path | None = None) -> Path:
    """Write the traces of every method by the code in a folder; see `scripts/loss_trace.py`.
    Returns `out`."""
    out.mkdir(parents=True, exist_ok=True)
    driver = code / "scripts" / "loss_trace.py"
    call = [
        sys.executable,
        str(driver if driver.exists() else BASE_DRIVER),
        str(out),
        only,
        str(steps),
    ]
    if base is not None:
        if not driver.exists():
            raise SystemExit(
                f"the code in {code} has no scripts/loss_trace.py, so it can only be the first revision"
            )
        call.append(str(base))
    environment = os.environ | {
        "PYTHONPATH": str(code),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(call, cwd=code, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the code in {code} does not run:\n{done.stderr[-2000:]}")
    return out


def worktree(revision: str, folder: Path) -> Path:
    """A copy of the code at a revision."""
    place = folder / revision.replace("/", "-")
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", str(place), revision],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise SystemExit(f"git has no revision {revision!r}: {made.stderr.strip()}")
    return place


def base_traces(revision: str, cache: Path, only: str, steps: int) -> Path:
    """The traces of a revision, made unless they are in the cache already."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise SystemExit(f"git has no revision {revision!r}: {found.stderr.strip()}")
    key = hashlib.sha256(
        f"{BASE_DRIVER.read_text(encoding='utf-8')}{torch.__version__}{only}{steps}".encode()
    ).hexdigest()[:8]
    place = cache / f"{found.stdout.strip()[:12]}-{key}"
    if not (place / "done").exists():
        with tempfile.TemporaryDirectory(prefix="same-loss-") as folder:
            code = worktree(revision, Path(folder))
            try:
                trace(code, place, only, steps)
            finally:
                subprocess.run(
                    ["git", "worktree", "remove", "--force", str(code)],
                    cwd=ROOT,
                    capture_output=True,
                )
        (place / "done").touch()
    return place


def methods_of(folder: Path) -> set[str]:
    return {f.stem for f in folder.iterdir() if f.suffix in (".safetensors", ".error")}


def compared(before: Path, after: Path, tolerance: float = 0.0) -> list[tuple[str, str, str]]:
    """(method, verdict, what differs first) for every method of either folder of traces.

    Args:
        tolerance: largest difference, as a share of the largest value of a tensor, that counts as
        the same.
    """
    lines = []
    for name in sorted(methods_of(before) | methods_of(after)):
        if name not in methods_of(before) or name not in methods_of(after):
            lines.append((name, "new" if name in methods_of(after) else "gone", ""))
            continue
        errors = [
            (f / f"{name}.error").read_text(encoding="utf-8")
            for f in (before, after)
            if (f / f"{name}.error").exists()
        ]
        if errors:
            lines.append((name, "fails", errors[-1][:200]))
            continue
        other = difference(
            before / f"{name}.safetensors",
            after / f"{name}.safetensors",
            mapped(after, name),
            tolerance,
        )
        lines.append((name, "differs" if other else "same", other))
    return lines


def mapped(after: Path, name: str) -> dict[str, str]:
    file = after / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


KINDS = ("fixed", "initial", "term", "gradient", "after", "embed")
TERMS = {"senses": ("fields",), "told": ("supervised", "predict"), "tell": ("translate",)}
"""Parts of the names of terms that were renamed."""


def parts(key: str) -> tuple[int, str, str]:
    """The step (0 for none), the kind and the name of what a trace holds under a key."""
    first, _, rest = key.partition("/")
    kind, _, name = rest.partition("/") if first.isdigit() else (first, "", rest)
    return int(first) if first.isdigit() else 0, kind, name


def order(key: str) -> tuple:
    """Traces in the order in which things happen."""
    step, kind, name = parts(key)
    return kind == "embed", step, KINDS.index(kind), name


def difference(before: Path, after: Path, names: dict[str, str], tolerance: float) -> str:
    """The first value that differs between two traces, in words; "" for none."""
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        own, found = set(new.keys()), set()
        for key in sorted(old.keys(), key=order):
            _, kind, name = parts(key)
            there = (
                key if kind in ("term", "embed") else key.removesuffix(name) + names.get(name, name)
            )
            if kind == "term" and there not in own:
                choices = itertools.product(*(TERMS.get(w, (w,)) for w in there.split("/")))
                there = next((k for k in map("/".join, choices) if k in own), there)
            if there not in own:
                return f"{key} is gone"
            found.add(there)
            a, b = old.get_tensor(key), new.get_tensor(there)
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{key}: {a.dtype} {tuple(a.shape)} -> {b.dtype} {tuple(b.shape)}"
            if torch.equal(a, b) or (a.isnan() & b.isnan() | (a == b)).all():
                continue
            apart, scale = (
                (a.double() - b.double()).abs().max().item(),
                a.double().abs().max().clamp(min=1e-12).item(),
            )
            if not apart <= tolerance * scale:
                return f"{key}: differs by {apart:.3g} of {scale:.3g}"
        extra = sorted(own - found, key=order)
        return f"{extra[0]} is new" if extra else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("revision", nargs="?", help="the working tree unless given")
    parser.add_argument("--only", default="", help="methods, with commas between")
    parser.add_argument("--steps", type=int, default=2, help="of each stage")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="for changes of the order of arithmetic: 1e-6"
    )
    cache = Path(tempfile.gettempdir()) / "amodal-same-loss"
    parser.add_argument(
        "--traces", type=Path, default=cache, help="where the traces of BASE_REV are kept"
    )
    asked = parser.parse_args(argv)
    before = base_traces(asked.base, asked.traces, asked.only, asked.steps)
    with tempfile.TemporaryDirectory(prefix="same-loss-") as folder:
        code = worktree(asked.revision, Path(folder)) if asked.revision else ROOT
        try:
            after = trace(code, Path(folder) / "traces", asked.only, asked.steps, before)
            lines = compared(before, after, asked.tolerance)
        finally:
            if asked.revision:
                subprocess.run(
                    ["git", "worktree", "remove", "--force", str(code)],
                    cwd=ROOT,
                    capture_output=True,
                )
    wide = max((len(name) for name, *_ in lines), default=0)
    for name, verdict, shown in lines:
        print(f"{name:{wide}}  {verdict:8}  {shown}".rstrip())
    counts = {verdict: sum(v == verdict for _, v, _ in lines) for _, verdict, _ in lines}
    print(
        f"{asked.base} and {asked.revision or 'the working tree'}: {', '.join(f'{n} {v}' for v, n in counts.items())}"
    )
    return int(not lines or any(v in ("differs", "gone", "fails") for _, v, _ in lines))


if __name__ == "__main__":
    sys.exit(main())

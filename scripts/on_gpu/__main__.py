"""Everything that can only be seen on a GPU, in pieces of less than ten minutes.

python -m scripts.on_gpu                           on a machine that has a GPU
python -m scripts.on_gpu --through "ssh HOST"      on another machine, which need not reach anything
python -m scripts.on_gpu --device cpu --dry-run    all pieces at their smallest, here

The tree and its small data are packed (at most 60 MiB), sent and unpacked by each piece's own call,
so that a machine that is lent anew for every call will do. Nothing is fetched there: a library that
is not installed is named and left out. What was found goes into --out, a JSON file, after every
piece; --only repeats some pieces and leaves the results of the others in it. The exit code is 1 if
a piece failed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from scripts.on_gpu.pieces import PIECES

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("amodal", "benchmarks", "scripts", "tests", "pyproject.toml")
MOST_BYTES = 60 * 2**20
SECONDS = 570
"""Of a piece: ten minutes, less what a machine takes to answer."""
MARK = "on_gpu result: "
"""Begins the line that a piece prints at its end."""


def pack(file: Path) -> Path:
    """The tracked files of this tree as a .tar.gz. Raises SystemExit for one that is too large to
    be sent."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *FOLDERS],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    with tarfile.open(file, "w:gz") as archive:
        for name in filter(None, tracked):
            if (ROOT / name).exists():
                archive.add(ROOT / name, name)
    if file.stat().st_size > MOST_BYTES:
        raise SystemExit(
            f"the tree packs to {file.stat().st_size / 2**20:.0f} MiB, more than {MOST_BYTES / 2**20:.0f}"
        )
    return file


def command(piece: str, device: str, dry: bool, python: str) -> str:
    """The shell line that runs a piece in the root of the tree."""
    words = [
        python,
        "-m",
        "scripts.on_gpu.pieces",
        piece,
        "--device",
        device,
        *(["--dry-run"] if dry else []),
    ]
    return shlex.join(words)


def run_piece(
    piece: str, device: str, dry: bool, through: str, archive: Path | None, python: str
) -> dict:
    """What a piece found, or why it did not: {"ok": bool, …}."""
    line = command(piece, device, dry, python)
    if through:
        unpack = f"d=$(mktemp -d) && cd $d && tar xz && timeout {SECONDS} {line}; c=$?; rm -rf $d; exit $c"
        call, source = [*shlex.split(through), unpack], open(archive, "rb")  # noqa: SIM115
    else:
        call, source = ["sh", "-c", f"exec {line}"], None
    try:
        done = subprocess.run(
            call, cwd=ROOT, stdin=source, capture_output=True, text=True, timeout=SECONDS + 30
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "reason": f"took longer than {SECONDS} s"}
    finally:
        if source is not None:
            source.close()
    results = [
        text.removeprefix(MARK) for text in done.stdout.splitlines() if text.startswith(MARK)
    ]
    if not results:
        return {
            "ok": False,
            "reason": f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}",
        }
    return json.loads(results[-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="every piece at its smallest")
    parser.add_argument(
        "--only", default="", help=f"pieces, with commas between: {', '.join(PIECES)}"
    )
    parser.add_argument(
        "--through",
        default="",
        help='what runs a shell line elsewhere and passes on its input, "ssh HOST"',
    )
    parser.add_argument(
        "--python", default="", help="the interpreter there; this one, or python with --through"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("on_gpu.json"), help="where the results go"
    )
    parser.add_argument(
        "--pack", type=Path, help="pack the tree into this .tar.gz and do nothing else"
    )
    asked = parser.parse_args(argv)
    if asked.pack:
        print(f"{pack(asked.pack)}: {asked.pack.stat().st_size / 2**20:.1f} MiB")
        return 0
    chosen = asked.only.split(",") if asked.only else list(PIECES)
    for name in chosen:
        if name not in PIECES:
            parser.error(f"there is no piece {name!r}; there are {', '.join(PIECES)}")
    found = (
        json.loads(asked.out.read_text(encoding="utf-8"))
        if asked.only and asked.out.exists()
        else {}
    )
    python = asked.python or ("python" if asked.through else sys.executable)
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as folder:
        archive = pack(Path(folder) / "tree.tar.gz") if asked.through else None
        for name in chosen:
            found[name] = run_piece(
                name, asked.device, asked.dry_run, asked.through, archive, python
            )
            verdict = "ok" if found[name]["ok"] else f"FAILED: {found[name].get('reason', '')}"
            print(f"{name:20} {verdict}", flush=True)
            asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(not all(found[name]["ok"] for name in chosen))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.faults kills|studies|media|fuzz`: see the docstring of the package. Prints a summary,
writes JSON, exits 1 for any fault."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("what", choices=("kills", "studies", "media", "fuzz"))
    parser.add_argument(
        "--count",
        type=int,
        help="runs to kill (50), processes of a comparison to kill (20), or files to damage (5000)",
    )
    parser.add_argument("--embed", type=int, default=20, help="of kills: runs of `amodal embed`")
    parser.add_argument("--index", type=int, default=20, help="of kills: runs of `amodal index`")
    parser.add_argument(
        "--reindex",
        type=int,
        default=10,
        help="of kills: runs of `amodal index --prune` over an older index",
    )
    parser.add_argument(
        "--seconds", type=float, default=300, help="of fuzz: in all, shared out among the targets"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    asked = parser.parse_args()
    begun = time.time()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        if asked.what == "kills":
            from benchmarks.faults import kills

            counts = {"pretrain": 50 if asked.count is None else asked.count}
            counts |= {name: getattr(asked, name) for name in ("embed", "index", "reindex")}
            result = kills.run(counts, Path(folder), seed=asked.seed)
            wrong = sum(len(each["wrong"]) for each in result.values())
        elif asked.what == "studies":
            from benchmarks.faults import studies

            result = studies.run(
                20 if asked.count is None else asked.count, Path(folder), seed=asked.seed
            )
            wrong = len(result["wrong"])
        elif asked.what == "media":
            from benchmarks.faults import media

            result = media.run(
                5000 if asked.count is None else asked.count, Path(folder), seed=asked.seed
            )
            wrong = len(result["wrong"])
        else:
            from benchmarks.faults import fuzz

            result = fuzz.run(asked.seconds, Path(folder), seed=asked.seed)
            wrong = len(result["wrong"])
    about = {
        "command": " ".join(["python", "-m", "benchmarks.faults", *sys.argv[1:]]),
        "commit": commit,
        "seed": asked.seed,
    }
    about |= {
        "date": time.strftime("%Y-%m-%d", time.localtime(begun)),
        "seconds": round(time.time() - begun),
    }
    if asked.out:
        asked.out.write_text(json.dumps(about | {"result": result}, indent=1), encoding="utf-8")
    print(json.dumps(about | {"result": summary(result)}, indent=1))
    return 1 if wrong else 0


def summary(result: dict) -> dict:
    """Without the long lists."""
    return {
        k: summary(v) if isinstance(v, dict) else v for k, v in result.items() if k != "moments"
    }


if __name__ == "__main__":
    sys.exit(main())

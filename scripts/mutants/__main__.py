"""The command line of `scripts.mutants`."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.mutants import parts
from scripts.mutants.run import Target
from scripts.mutants.trees import Mutant

EQUIVALENT = parts.ROOT / "tests" / "golden" / "equivalent.toml"


@dataclass(frozen=True)
class Options:
    """What the command line says; see `parser`."""

    sample: int | None
    seed: str
    out: Path | None
    end: float


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m scripts.mutants", description=__doc__)
    made.add_argument("pages", nargs="*", help="names of methods")
    made.add_argument("--all", action="store_true", help="every page that has a test")
    made.add_argument("--changed", metavar="REV", help="pages changed since, with a golden test")
    made.add_argument("--sample", type=int, help="mutants of each page, drawn by --seed")
    made.add_argument("--seed", default="0", help="such as the name of the commit")
    made.add_argument("--out", type=Path, help="JSON lines; what is there is not run again")
    made.add_argument("--minutes", type=float, help="stop after that")
    made.add_argument("--at-least", type=float, default=0.0, help="exit 1 below this share")
    made.add_argument("--list", action="store_true", help="show the mutants and run none")
    return made


def equivalents() -> dict[str, dict[str, str]]:
    """Name of a mutant -> its entry in the committed list: page, before, after, proof."""
    if not EQUIVALENT.exists():
        return {}
    with EQUIVALENT.open("rb") as file:
        return {entry["mutant"]: entry for entry in tomllib.load(file).get("equivalent", [])}


def changed_pages(revision: str) -> list[str]:
    """Pages with a golden test whose own files or tests differ from a revision.

    Raises:
        SystemExit: If git does not know the revision.
    """
    call = ["git", "diff", "--name-only", revision]
    done = subprocess.run(call, cwd=parts.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git has no revision {revision!r}: {done.stderr.strip()}")
    files = set(done.stdout.split())
    golden = [p for p in parts.pages() if (parts.ROOT / f"tests/golden/test_{p}.py").exists()]
    return [page for page in golden if parts.files_of(page) & files]


def targets(page: str) -> list[Target]:
    """What is mutated with a page."""
    files, tests, calls = parts.module_files(), parts.tests_of(page), parts.calls(page)
    scope = sorted(parts.scope(page).items())
    return [Target(module, files[module], only, tests, calls) for module, only in scope]


def drawn(page: str, options: Options) -> list[tuple[Target, Mutant]]:
    """The mutants of a page, or a sample of them, in the order of their lines."""
    every = [(target, mutant) for target in targets(page) for mutant in target.mutants]
    if options.sample is None or options.sample >= len(every):
        return every
    chosen = random.Random(f"{options.seed} {page}").sample(range(len(every)), options.sample)
    return [every[i] for i in sorted(chosen)]


def sources(page: str) -> str:
    """A word that changes with anything that could change a verdict on the page."""
    import hashlib

    files = sorted(parts.files_of(page) | {"tests/golden/harness.py"})
    text = "".join(
        (parts.ROOT / f).read_text(encoding="utf-8") for f in files if (parts.ROOT / f).exists()
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def stored(out: Path | None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(page, mutant, sources) -> the line of a former run."""
    if out is None or not out.exists():
        return {}
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {(line["page"], line["mutant"], line["sources"]): line for line in lines}


def rows(page: str, options: Options) -> Iterator[dict[str, Any]]:
    """One line for each mutant of a page, as soon as it is known."""
    done, state, proofs = stored(options.out), sources(page), equivalents()
    limit = 0.0
    for target, mutant in drawn(page, options):
        if mutant.name in proofs:
            yield line_of(page, mutant, state, "equivalent", "", 0.0)
            continue
        if (page, mutant.name, state) in done:
            yield done[page, mutant.name, state]
            continue
        if time.monotonic() > options.end:
            print(f"{page}: stopped, the time is over", file=sys.stderr)
            return
        limit = limit or target.limit()
        verdict = target.verdict(mutant, limit)
        row = line_of(page, mutant, state, verdict.outcome, verdict.by, verdict.seconds)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        yield row


def line_of(
    page: str, mutant: Mutant, state: str, outcome: str, by: str, seconds: float
) -> dict[str, Any]:
    return {
        "page": page,
        "mutant": mutant.name,
        "sources": state,
        "place": f"{mutant.file}:{mutant.line}",
        "operator": mutant.operator,
        "before": mutant.before,
        "after": mutant.after,
        "outcome": outcome,
        "by": by,
        "seconds": round(seconds, 2),
    }


def shown(row: dict[str, Any]) -> str:
    """A survivor as a person reads it."""
    lines = difflib.ndiff(row["before"].splitlines(), row["after"].splitlines())
    changed = [f"    {line}" for line in lines if line[0] in "+-"]
    return "\n".join([f"  {row['place']}  {row['operator']}  {row['mutant']}", *changed])


def share_killed(rows_of_page: Sequence[dict[str, Any]]) -> float:
    """Of the mutants that are not equivalent; 1 if there are none."""
    counts = Counter(row["outcome"] for row in rows_of_page)
    distinct = len(rows_of_page) - counts["equivalent"]
    return 1 - counts["survived"] / distinct if distinct else 1.0


def summary(page: str, rows_of_page: Sequence[dict[str, Any]]) -> str:
    """The line of a page in the table."""
    counts = Counter(row["outcome"] for row in rows_of_page)
    seconds = sum(row["seconds"] for row in rows_of_page)
    # without those that crashed, which any test that runs the line would notice
    silent = counts["killed"] + counts["survived"]
    return (
        f"{page:<24} {len(rows_of_page):>4} mutants: {counts['killed']:>4} killed, "
        f"{counts['crashed']:>3} crashed, {counts['late']:>2} late, {counts['survived']:>3} survived, "
        f"{counts['equivalent']:>2} equivalent; {100 * share_killed(rows_of_page):.1f} % noticed, "
        f"{100 * counts['killed'] / max(silent, 1):.1f} % of those that do not crash; {seconds:.0f} s"
    )


def run_page(page: str, options: Options) -> float:
    """Run a page's mutants and print what survived. Returns the share that was noticed."""
    if not parts.tests_of(page):
        print(f"{page:<24} has neither a golden test nor a page test: every mutant would survive")
        return 0.0
    found = []
    for row in rows(page, options):
        found.append(row)
        if row["outcome"] == "survived":
            print(shown(row), flush=True)
    print(summary(page, found), flush=True)
    return share_killed(found)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    names = list(chosen.pages)
    if chosen.all:
        names = list(parts.pages())
    elif chosen.changed:
        names = changed_pages(chosen.changed)
        print(f"pages to look at: {', '.join(names) or 'none'}")
    elif not names:
        parser().error("name a page, or say --all or --changed REV")
    if wrong := [name for name in names if name not in parts.pages()]:
        from amodal.errors import unknown

        raise SystemExit(str(unknown("method", wrong[0], list(parts.pages()))))
    end = time.monotonic() + 60 * chosen.minutes if chosen.minutes else float("inf")
    options = Options(chosen.sample, chosen.seed, chosen.out, end)
    if chosen.list:
        for name in names:
            for _, mutant in drawn(name, options):
                print(f"{mutant.file}:{mutant.line} {mutant.operator} {mutant.name}")
                print(f"  - {mutant.before}\n  + {mutant.after}")
        return 0
    shares = [run_page(name, options) for name in names if time.monotonic() < end]
    return int(any(share < chosen.at_least for share in shares))


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    raise SystemExit(main())

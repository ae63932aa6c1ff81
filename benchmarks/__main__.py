"""`python -m benchmarks [name ...]`: run the modules of this folder (all, or those named) and print one table."""

import difflib
import importlib
import math
import pkgutil
import sys

import torch
from rich.console import Console
from rich.table import Table

import benchmarks


def shown(number: float, form: str) -> str:
    """Empty for what was not measured."""
    return "" if math.isnan(number) else form.format(number)


def main(names: list[str]) -> int:
    """Every module not starting with an underscore offers run() -> list[Row]. Returns the exit code."""
    known = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            print(f"There is no benchmark {name!r}.{hint} Known: {', '.join(known)}.", file=sys.stderr)
            return 2
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"peer / ours: above 1, ours is faster or smaller (torch {torch.__version__}, {device})")
    for heading in ("what", "peer"):
        table.add_column(heading)
    for heading in ("speed", "range", "ours ms", "peer ms", "memory", "ours MiB", "peer MiB"):
        table.add_column(heading, justify="right")
    for name in names or known:
        for row in importlib.import_module(f"benchmarks.{name}").run():
            table.add_row(
                f"{name}: {row.what}",
                row.peer,
                shown(row.speed, "{:.2f}x"),
                "-".join(shown(ratio, "{:.2f}") for ratio in row.spread).strip("-"),
                f"{row.ours_ms:.1f}",
                shown(row.peer_ms, "{:.1f}"),
                f"{row.memory:.1f}x",
                f"{row.ours_mib:.1f}",
                f"{row.peer_mib:.1f}",
            )
    console = Console()
    # Output that goes to a file keeps one line per row.
    (console if console.is_terminal else Console(width=160)).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

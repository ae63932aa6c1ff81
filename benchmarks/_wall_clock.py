"""Comparisons by the clock on the wall, for what CPU time of one process does not measure: start-up
and worker processes."""

import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

from benchmarks._timing import Row, in_turns

Side = Callable[[], tuple[float, float]]
"""One measurement: seconds and MiB (NaN where memory is not what is asked)."""


def alternate(what: str, ours: Side, peer_name: str, peer: Side, *, repeat: int = 5) -> Row:
    """Both in turns `repeat` times after one warm-up each, who goes first alternating. The speed is
    the median of the paired ratios."""
    ours(), peer()
    return row_of(what, peer_name, *zip(*in_turns(ours, peer, lambda side: side(), repeat)))


def row_of(
    what: str,
    peer_name: str,
    ours: Sequence[tuple[float, float]],
    peer: Sequence[tuple[float, float]],
) -> Row:
    """Measurements of both sides, (seconds, MiB) each, as a Row; the first of ours goes with the
    first of the peer's."""
    ratios = [theirs[0] / max(mine[0], 1e-9) for mine, theirs in zip(ours, peer)]
    return Row(
        what,
        peer_name,
        statistics.median(ratios),
        1000 * statistics.median(seconds for seconds, _ in ours),
        1000 * statistics.median(seconds for seconds, _ in peer),
        statistics.median(mib for _, mib in ours),
        statistics.median(mib for _, mib in peer),
        (min(ratios), max(ratios)),
    )


def process(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """Seconds until a command ends, and NaN for its memory. Raises subprocess.CalledProcessError if
    it fails."""
    start = time.perf_counter()
    subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start, math.nan

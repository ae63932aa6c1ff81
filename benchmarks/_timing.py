"""One comparison, fairly: both sides in one process, in turns, medians, and the memory that the
allocator saw."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Side, Measured = TypeVar("Side"), TypeVar("Measured")


@dataclass(frozen=True)
class Row:
    """One line of the table. Ratios are peer / ours: above 1 means that ours is faster or smaller.
    What was not measured is NaN.

    flops: operations of our matrix products; share: of the physical limit named in `limit` that
    ours reaches (`benchmarks._limits`); goal: the ratio of speed that we want; note: what a reader
    must know beside.
    """

    what: str
    peer: str
    speed: float
    ours_ms: float
    peer_ms: float
    ours_mib: float
    peer_mib: float
    spread: tuple[float, float]  # of the speed ratio: smallest and largest over the repetitions
    flops: float = math.nan
    share: float = math.nan
    limit: str = ""
    goal: float = math.nan
    note: str = ""

    @property
    def memory(self) -> float:
        return self.peer_mib / max(self.ours_mib, 1 / 1024)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """One thread for torch, whose CPU time depends least on what else the machine does; a decorator
    too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of all threads, which other programs on the machine disturb little; wall time on
    an accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_mib(call: Callable[[], object]) -> float:
    """Largest sum of tensors alive at once during the call, beyond those alive before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak / 2**20


def in_turns(
    ours: Side, peer: Side, measure: Callable[[Side], Measured], repeat: int
) -> list[tuple[Measured, Measured]]:
    """(of ours, of the peer) `repeat` times. Who goes first alternates, so that neither always
    finds the caches of the other."""
    pairs = []
    for turn in range(repeat):
        measured = {
            side: measure(side) for side in ((ours, peer) if turn % 2 == 0 else (peer, ours))
        }
        pairs.append((measured[ours], measured[peer]))
    return pairs


def compare(
    what: str,
    ours: Callable[[], object],
    peer_name: str,
    peer: Callable[[], object],
    *,
    repeat: int = 7,
) -> Row:
    """Runs both in turns `repeat` times after one warm-up each. The speed is the median of the
    paired ratios."""
    ours(), peer()
    pairs = in_turns(ours, peer, seconds, repeat)
    ratios = [theirs / max(mine, 1e-9) for mine, theirs in pairs]
    return Row(
        what,
        peer_name,
        statistics.median(ratios),
        1000 * statistics.median(mine for mine, _ in pairs),
        1000 * statistics.median(theirs for _, theirs in pairs),
        peak_mib(ours),
        peak_mib(peer),
        (min(ratios), max(ratios)),
    )

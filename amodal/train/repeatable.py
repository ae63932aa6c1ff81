"""Sums in the same order: what a resumed run needs to end at the weights of a straight one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from amodal.core import AmodalWarning
from amodal.nn.saved import read_config

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""The variable without which cuBLAS may sum in another order each time."""


@contextmanager
def repeatable(out: Path, *, deterministic: bool, resume: bool) -> Iterator[None]:
    """Train with as many threads as the run was started with, or say that there are others.

    torch divides sums among its threads, so another number of them rounds otherwise.

    Args:
        out: The run folder.
        deterministic: Take the threads of the run that is resumed, and algorithms of torch that sum
            in one order, also on a GPU. What has none ends with torch's error.
        resume: Whether the run goes on.
    """
    now = torch.get_num_threads()
    then = _threads_of(out) if resume else now
    if then != now and not deterministic:
        warnings.warn(
            f"the run in {out} was started with {then} threads and goes on with {now}: sums are "
            "rounded otherwise, so its weights will not be those of a straight run bit for bit. "
            f"--deterministic (deterministic=True) takes {then}",
            AmodalWarning,
            stacklevel=2,
        )
    if not deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.set_num_threads(then)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(now)


def _threads_of(out: Path) -> int:
    """How many a run was started with; those of now where it does not say."""
    said = read_config(out / "config.json").get("versions", {}).get("threads", "")
    return int(said) if said.isdecimal() and int(said) > 0 else torch.get_num_threads()

"""Processes that train together, forked from one that has imported what they need."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing


def run_ranks(rank: Callable[[int, str], None], folder: Path, count: int = 2) -> None:
    """Run `rank(number, folder)` in `count` processes.

    A fork of this process could not compute gradients, and a new process imports for seven seconds.
    So they are forked from a server that has imported and computed nothing.

    Raises:
        Exception: If one of them fails, with its traceback.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.preloaded"])
    torch.multiprocessing.start_processes(
        rank, (str(folder),), nprocs=count, start_method="forkserver"
    )

"""What all tests share."""

import gc
import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two test processes on two cores: threads would only wait for each other

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


LONG = (
    "methods/test_contract.py",
    "train/test_runs.py",
    "plan/test_plan.py",
    "methods/test_presence.py",
    "test_docs.py",
    "methods/test_conv_contract.py",
    "test_faults.py",
    "studies/test_compare.py",
    "train/test_fault_tolerance.py",
    "test_example_plugin.py",
    "export/test_graphs.py",
    "test_adapt.py",
    "test_on_gpu.py",
    "train/test_loss_monitor.py",
    "studies/test_worker.py",
    "test_demo.py",
)
"""Files that take longest. They begin the run: one that begins last is waited for by the other
process (with `--no-loadscope-reorder`, as in the Makefile)."""


def pytest_collection_modifyitems(items):
    place = {f"tests/{file}": number for number, file in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))


def pytest_collection_finish(session):
    """What has been imported and collected stays to the end: the collector need not look at it
    anew after every few hundred objects, which is a twentieth of the suite's time."""
    gc.collect()
    gc.freeze()


COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 60, 220),
    "yellow": (230, 220, 40),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder as a user makes it: 80 pictures in sub-folders by colour, two thirds of them with a
    caption."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(80):
        name = list(COLOURS)[i % 4]
        (root / name).mkdir(exist_ok=True)
        noise = rng.normal(0, 25, (20, 24, 3)) + COLOURS[name]
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{i:03d}.png")
        if i % 3:
            (root / name / f"{i:03d}.txt").write_text(
                f"a {name} picture, number {i}", encoding="utf-8"
            )
    return root

"""A kill, or a full disk, at any write of `save_weights` leaves a run that says what it is."""

import shutil
from pathlib import Path

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.saved import checked_weights, read_config, read_json, read_tensors
from amodal.train import run_dir

CONFIG = {
    "method": "simclr",
    "options": {},
    "encoder": {
        "part": "encoder",
        "args": {"fields": {}, "size": "tiny", "trunk": "", "pool": "", "positions": ""},
    },
    "data": {"name": "photos", "records": 3, "train": 2, "fingerprint": "f"},
    "schedule": {"steps": 1, "lr": 0.1},
    "batch": 2,
    "seed": 0,
    "status": "done",
}


class Killed(BaseException):
    """What nothing catches, as a kill."""


class Writes:
    """Stops at the n-th write: before it, halfway through it, or after it."""

    def __init__(self, monkeypatch, last: int = -1, when: str = "", error: type = Killed):
        self.count, self.last, self.when, self.error = 0, last, when, error
        for owner, name in (
            (Path, "write_text"),
            (Path, "replace"),
            (Path, "rename"),
            (run_dir, "save_file"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, write):
        def stopping(*args, **options):
            self.count += 1
            here = self.count == self.last + 1
            if here and self.when == "before":
                raise self.error("no space left")
            if here and self.when == "halfway" and write.__name__ == "write_text":
                write(args[0], args[1][: len(args[1]) // 2], **options)
                raise self.error("no space left")
            result = write(*args, **options)
            if here:
                raise self.error("no space left")
            return result

        return stopping


def save(folder: Path, value: float) -> None:
    run_dir.save_weights(
        folder, {"w": torch.full((4,), value)}, CONFIG, {"spec.json": {"of": value}}
    )


def state(folder: Path) -> float | str:
    """The value of the model in a folder, or what is said of it."""
    try:
        weights = checked_weights(folder, read_config(folder / "config.json"))
    except AmodalError as error:
        assert "has not been finished" in str(error) and "--resume" in str(error)
        return "unfinished"
    value = read_tensors(weights)["w"][0].item()
    # what is of one piece with the weights is theirs
    assert read_json(folder / "spec.json", "")["of"] == value
    return value


@pytest.mark.parametrize("when", ["before", "halfway", "after"])
@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize("over", [False, True], ids=["a new run", "over a model"])
def test_every_write_may_be_the_last(tmp_path, monkeypatch, over, error, when):
    start = tmp_path / "start"
    start.mkdir()
    if over:
        save(start, 1.0)
    else:
        run_dir.write_json(start / "spec.json", {"of": 0.0})
        run_dir.write_json(start / "config.json", CONFIG | {"format": 2, "status": "running"})
    with monkeypatch.context() as patch:
        writes = Writes(patch)
        save(Path(shutil.copytree(start, tmp_path / "whole")), 2.0)
    assert writes.count >= 6 and state(tmp_path / "whole") == 2.0
    states = []
    for last in range(writes.count):
        folder = Path(shutil.copytree(start, tmp_path / str(last)))
        with monkeypatch.context() as patch, pytest.raises((Killed, AmodalError)):
            Writes(patch, last, when, error)
            save(folder, 2.0)
        states.append(state(folder))
        save(folder, 3.0)  # and what is left over is no obstacle
        assert state(folder) == 3.0
    order = {1.0: 0, "unfinished": 1, 2.0: 2}
    assert states == sorted(states, key=order.get)
    assert states[0] == (1.0 if over else "unfinished")
    # the last write is a rename, which has no half
    assert states[-1] == ("unfinished" if when == "before" else 2.0)

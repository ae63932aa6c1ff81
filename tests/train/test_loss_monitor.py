"""A run that has come to no number is stopped before anything of it is kept, though its numbers are
read a step late."""

import pytest
import torch
from safetensors.torch import load_file

from amodal import data
from amodal.core import Recipe
from amodal.train import checkpoint, log, loop
from amodal.train import loss_monitor as finite
from amodal.train.collapse_monitor import CollapseMonitor, TrainingStopped
from amodal.train.loop import train
from amodal.train.step import total
from tests.methods.bench import FIELDS, fields, method, raw

STEPS, EVERY, LOGGED = 24, 6, 10


@pytest.fixture(scope="module")
def records():
    import numpy as np

    rng = np.random.default_rng(0)
    return data.open({s: [raw(s, rng) for _ in range(16)] for s in FIELDS}).with_fields(fields())


class Breaking:
    """clip, whose loss or gradient is not finite at one step, and whose `on_step_end` may not like
    that."""

    def __init__(self, broken_step: int, what: str, picky: bool = False):
        self.method, self.broken_step, self.what, self.picky, self.step = (
            method("clip"),
            broken_step,
            what,
            picky,
            0,
        )
        losses, on_step_end = self.method.losses, self.method.on_step_end

        def broken(features):
            self.step += 1
            terms = losses(features)
            if self.step != self.broken_step:
                return terms
            if (
                self.what == "gradient"
            ):  # the square root's slope at 0 is infinite, and 0 times it is no number
                return terms | {"more": (0 * next(iter(terms.values()))).abs().sqrt()}
            return {name: term * float(self.what) for name, term in terms.items()}

        def checked(clock):
            on_step_end(clock)
            weights = torch.stack([p.sum() for p in self.method.parameters()])
            if self.picky and not weights.isfinite().all():
                raise ValueError("cannot make clusters of NaN")

        self.method.losses, self.method.on_step_end = broken, checked


def run(m, records, folder, resume=False):
    def batches(first, groups=None):
        return data.Loader(
            records, range(16), batch=8, views=m.views, seed=3, steps=STEPS, start_step=first
        )

    recipe = Recipe(steps=STEPS, lr=1e-3, ema=0.9)
    folder.mkdir(exist_ok=True)
    quiet = dict(monitor=CollapseMonitor([]), save_every=EVERY, tensorboard=False, progress=False)
    return train(m, batches, recipe, folder, resume=resume, **quiet)


def weights_at(run, step) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.fixture(scope="module")
def clean(records, tmp_path_factory):
    """A run without a fault, of which all checkpoints are kept."""
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEEP", STEPS)
        run(Breaking(0, "").method, records, folder)
    return folder


@pytest.mark.parametrize(
    "step, what",
    [
        (7, "nan"),  # any step
        (12, "gradient"),  # of a checkpoint
        (13, "nan"),  # after one
        (13, "inf"),
        (20, "inf"),  # of an entry in the log
        (20, "gradient"),
        (STEPS, "nan"),  # the last
        (STEPS, "gradient"),
    ],
)
def test_the_run_stops_with_its_step_and_the_last_checkpoint_is_good(
    records, clean, tmp_path, step, what
):
    folder = tmp_path / "run"
    with pytest.raises(
        TrainingStopped, match=rf"stopped at step {step}: the loss is .*--lr, now 0.001.*step-"
    ) as stopped:
        run(Breaking(step, what).method, records, folder)
    last = checkpoint.latest(folder / "checkpoints")
    assert checkpoint.step_of(last) == (step - 1) // EVERY * EVERY and str(last) in str(
        stopped.value
    )
    before, found = (
        weights_at(clean, checkpoint.step_of(last)),
        weights_at(folder, checkpoint.step_of(last)),
    )
    assert before.keys() == found.keys() and all(torch.equal(before[n], found[n]) for n in before)
    entries = log.read_metrics(folder / "metrics.jsonl")
    assert max(entry["step"] for entry in entries) < step
    run(
        Breaking(0, "").method, records, folder, resume=True
    )  # and from there the run is the one without a fault
    end, resumed = weights_at(clean, STEPS), weights_at(folder, STEPS)
    assert all(torch.equal(end[n], resumed[n]) for n in end)


def test_an_error_that_follows_from_nan_is_reported_as_such(records, tmp_path):
    with pytest.raises(TrainingStopped, match="stopped at step 7: the loss is nan") as stopped:
        run(Breaking(7, "nan", picky=True).method, records, tmp_path)
    assert isinstance(stopped.value.__context__, ValueError), "what failed is told too"
    m = Breaking(0, "").method
    m.on_step_end = lambda clock: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(m, records, tmp_path / "other")


def test_what_is_logged_is_what_the_step_came_to_and_other_steps_are_read_one_later(
    records, tmp_path, monkeypatch
):
    events, truth = [], {}
    gradients, reading = loop.gradients, finite.StepLosses.__dict__["_read"].func

    def noted(*args, **settings):
        terms = gradients(*args, **settings)
        truth[len(truth) + 1] = float(total(terms))
        events.append(("computed", len(truth)))
        return terms

    def read(self):
        events.append(("read", self.step))
        return reading(self)

    monkeypatch.setattr(loop, "gradients", noted)
    monkeypatch.setattr(finite.StepLosses, "_read", property(read))
    run(method("clip"), records, tmp_path)
    logged = {
        entry["step"]: entry["loss"] for entry in log.read_metrics(tmp_path / "metrics.jsonl")
    }
    assert logged == {step: round(truth[step], 6) for step in (1, 10, 20, STEPS)}
    for step in range(1, STEPS):
        at_once = step == 1 or step % LOGGED == 0 or step % EVERY == 0
        first = events.index(("read", step))
        assert (first < events.index(("computed", step + 1))) == at_once, step

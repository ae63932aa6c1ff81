"""Parts of a method that learn at rates of their own."""

import torch

from amodal.core import Recipe
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from tests.methods.bench import batch, method

FIELDS = ("signal", "facts")


def moved(tmp_path, rates):
    """The largest change of each parameter in one step of AdamW, which is its rate: the first step
    goes by the gradient's sign."""
    one = method("clip", sources=FIELDS)
    one.lr_multipliers, before = (
        rates,
        {n: p.detach().clone() for n, p in one.named_parameters() if p.dim() == 1},
    )
    seen = batch(one.views, sources=FIELDS)
    recipe = Recipe(steps=1, lr=1e-3, precision="float32")
    tmp_path.mkdir()
    train(
        one,
        lambda first: iter([seen]),
        recipe,
        tmp_path,
        monitor=CollapseMonitor([]),
        tensorboard=False,
        progress=False,
    )
    after = dict(one.named_parameters())
    return {n: float((after[n].detach() - p).abs().max()) for n, p in before.items()}


def test_the_loop_takes_so_many_times_the_rate(tmp_path):
    plain = moved(tmp_path / "plain", {})
    times = moved(
        tmp_path / "times", {"encoder.trunks.signal.norm": 7.0, "encoder.trunks.signal": 3.0}
    )
    assert any(plain.values())
    for name, distance in plain.items():
        factor = (
            7
            if name.startswith("encoder.trunks.signal.norm")
            else 3
            if "trunks.signal." in name
            else 1
        )
        torch.testing.assert_close(times[name], factor * distance, rtol=1e-3, atol=1e-7)

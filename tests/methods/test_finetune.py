"""Fine-tuning: what learns of a pretrained backbone and of an encoder that compared fields."""

import pytest
import torch
from torch import nn

from amodal import methods
from amodal.nn.heads.supervised import Target
from tests.methods.bench import batch, method

KIND = Target("kind", "classes", ("a", "b", "c"))
MIXED = ("picture", "words")


class Net(nn.Module):
    """Pictures -> one token each."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3 * 16 * 16, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.outer(self.inner(x.flatten(1)).relu())


def reached(m):
    """Parameters of the pictures' backbone that get a gradient, after the first step."""
    for _ in range(2):  # at the first step A of a difference of low rank has none yet
        m.zero_grad()
        sum(m.losses(m.features(batch(m.views, sources=MIXED))).values()).backward()
        found = {n for n, p in m.named_parameters() if p.grad is not None and p.grad.any()}
        with torch.no_grad():
            for p in m.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
    start = "encoder.tokenizers.picture."
    return {n.removeprefix(start) for n in found if n.startswith(start)}


@pytest.mark.parametrize(
    ("tuning", "learns"),
    [
        (
            "full",
            {f"module.{layer}.{p}" for layer in ("inner", "outer") for p in ("weight", "bias")},
        ),
        ("head", set()),
        ("bias", {"module.inner.bias", "module.outer.bias"}),
        (
            "lora",
            {
                f"module.{layer}.parametrizations.weight.0.{p}"
                for layer in ("inner", "outer")
                for p in ("a", "b")
            },
        ),
    ],
)
def test_what_learns_of_a_backbone(tuning, learns):
    m = method("finetune", sources=MIXED, backbones={"picture": Net()}, tuning=tuning, rank=2)
    assert reached(m) == learns | {"project.weight", "project.bias"}


def test_maps_of_an_earlier_contrast_do_not_learn():
    encoder = method("clip", sources=MIXED).encoder
    m = methods.build("finetune", encoder, label="kind", targets=(KIND,))
    assert not any(p.requires_grad for p in m.encoder.heads.parameters())
    assert all(p.requires_grad for p in m.encoder.trunks.parameters())


def test_a_joint_trunk_makes_one_pass(monkeypatch):
    """Each field alone is not asked for."""
    monkeypatch.setattr(methods, "encoder_options", lambda name: {"trunk": "joint"})
    m, passes = method("finetune"), []
    m.encoder.trunks["all"].register_forward_hook(lambda *_: passes.append(1))
    m.features(batch(m.views))
    assert len(passes) == 1

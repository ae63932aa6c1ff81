"""What is counted is what is computed."""

import dataclasses
import io
import re

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from amodal import cli, methods
from amodal.core import AmodalError
from amodal.nn.encoder import Encoder
from amodal.nn.gradient_checkpointing import recomputation
from amodal.plan import plan
from amodal.plan.counting import count, weightless
from amodal.plan.hardware import GPUS
from amodal.plan.layout import RESERVED
from amodal.plan.step import Steps
from amodal.train.step import gradients
from benchmarks._timing import peak_mib
from tests.methods.bench import batch, fields

FIELDS = ("picture", "words")


def made(name, size="nano"):
    torch.manual_seed(0)
    return methods.build(name, Encoder(fields(FIELDS), size=size, **methods.encoder_options(name)))


def records(method, rows, patchy=True):
    return batch(method.views, rows, sources=FIELDS, patchy=patchy)


def attention(q, k, v, *_, out_shape=None, **__):
    (rows, heads, queries, width), keys = q, k[2]
    return 4 * rows * heads * queries * keys * width


LEFT_OUT = {  # by torch's own counter
    torch.ops.aten.addmm_: lambda c, a, b, out_shape=None, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, *qkv, **_: (
        5 * attention(*qkv) / 2
    ),
}


@pytest.mark.parametrize(
    ("name", "micro", "recompute"),
    [
        ("clip", None, False),
        ("clip", 5, False),
        ("clip", None, True),
        ("clip", 5, True),
        ("mae", None, False),
        ("mae", 5, True),
        ("dino", None, True),
        ("simclr", 5, False),
    ],
)
def test_flops_and_memory_are_those_of_the_real_step(name, micro, recompute):
    real, counted = made(name), weightless(lambda: made(name))
    b = records(real, 15)

    def step():
        with recomputation(recompute):
            gradients(real, b, micro=micro)

    how = dict(
        times=1,
        micro_batch_size=micro,
        gradient_checkpointing=recompute,
        precision=torch.autocast("cpu", enabled=False),
    )
    found = count(counted, b, **how)
    with FlopCounterMode(display=False, custom_mapping=LEFT_OUT) as seen:
        step()
    real.zero_grad(set_to_none=True)
    measured = peak_mib(step) * 2**20  # of a second step: the first fills caches
    assert found.peak == pytest.approx(measured, rel=0.03)
    assert found.flops == pytest.approx(seen.get_total_flops(), rel=1e-6)


def test_attention_is_that_of_accelerators_in_half_precision():
    m = weightless(lambda: made("clip"))
    steps = [
        count(
            m,
            records(m, 16),
            times=1,
            micro_batch_size=None,
            precision=torch.autocast("cpu", torch.bfloat16, enabled=half),
        )
        for half in (False, True)
    ]
    assert steps[0].flops == pytest.approx(steps[1].flops)
    assert steps[1].ops[:, 0].sum() > 0.8 * steps[1].flops > 0 == steps[0].ops[:, 0].sum()


def test_weights_are_counted_without_being_there():
    light, heavy = weightless(lambda: made("dino", "small")), made("dino", "small")
    assert [(n, p.shape, p.requires_grad) for n, p in light.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in heavy.named_parameters()
    ]


@pytest.mark.slow
def test_few_rows_extrapolate_to_many():
    m = weightless(lambda: made("clip"))
    many = batch(m.views, 144, sources=FIELDS, patchy=False)
    steps = Steps(m, many.between(0, 96), lambda: torch.autocast("cpu", enabled=False), world=2)
    for micro in (None, 24):
        whole = count(
            m,
            many,
            times=2,
            micro_batch_size=micro,
            precision=torch.autocast("cpu", enabled=False),
        )
        estimated = steps.cost(144, micro)
        assert estimated.flops == pytest.approx(whole.flops, rel=0.05)
        assert estimated.peak == pytest.approx(whole.peak, rel=0.05)


def test_losses_of_very_large_batches_are_continued(monkeypatch):
    m = weightless(lambda: made("clip"))
    steps = Steps(
        m, records(m, 96, patchy=False), lambda: torch.autocast("cpu", enabled=False), world=256
    )
    counted = steps.losses(16)
    monkeypatch.setattr("amodal.plan.step.MAX_LOSS_ROWS", 1920)
    assert steps.losses(16).flops == pytest.approx(counted.flops, rel=0.05)


def test_a_plan_adds_up():
    tokens = {"image": 16, "text": 8}
    small = plan("clip", size="tiny", samples=1e6, gpus=8, batch_size=256, tokens=tokens)
    ddp, sharded = small.layouts  # all fits: nothing that saves memory is offered
    weights = 4 * sum(p.numel() for p in _clip(tokens).parameters())
    assert ddp.memory["weights"] == weights and ddp.memory["optimizer state"] == 2 * weights
    assert (
        sharded.memory["weights"] < weights / 4
        and sharded.total < ddp.total
        and ddp.total > RESERVED
    )
    assert small.job.steps == 3906 and ddp.hours == pytest.approx(8 * 3906 * ddp.seconds / 3600)
    assert ddp.cost == pytest.approx(ddp.hours * GPUS["h100"].price)
    assert 0 < ddp.utilisation < 0.6
    twice = plan(
        "clip", size="tiny", samples=2e6, gpus=8, batch_size=256, tokens=tokens, price=1.0, ema=True
    )
    assert (
        twice.layouts[0].hours == pytest.approx(2 * ddp.hours, rel=0.01)
        and twice.layouts[0].memory["averaged weights"]
    )
    measured = plan("clip", size="tiny", gpus=8, batch_size=256, tokens=tokens, mfu=0.5).layouts[0]
    assert measured.computing == pytest.approx(measured.flops / (0.5 * GPUS["h100"].half))


def test_what_does_not_fit_is_offered_in_lighter_ways(monkeypatch):
    """On GPUs with less and less memory: first whole, then recomputed or in pieces, then both, and
    at last only sharded or not at all."""
    counted = []

    def steps(*arguments):  # the same step on each of them is counted once
        counted.append(counted[0] if counted else Steps(*arguments))
        return counted[0]

    monkeypatch.setattr("amodal.plan.Steps", steps)

    def on(mib: float):
        card = dataclasses.replace(GPUS["h100"], memory=RESERVED + mib * 2**20)
        monkeypatch.setitem(GPUS, "h100", card)
        return plan("mae", size="nano", samples=1e6, gpus=2, batch_size=128, tokens={"image": 16})

    def needs(layout):
        return (layout.total - RESERVED) / 2**20

    roomy = on(1e5)
    assert [way.name for way in roomy.layouts] == ["DDP", "FSDP2"]
    whole, sharded = roomy.layouts
    tight = on(needs(sharded) - 1)
    assert [
        (w.option.gradient_checkpointing, w.option.micro_batch_size is not None)
        for w in tight.layouts
        if not w.option.fsdp
    ][:3] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    recomputed = next(
        w
        for w in tight.layouts
        if w.option.gradient_checkpointing
        and not w.option.fsdp
        and w.option.micro_batch_size is None
    )
    assert needs(recomputed) < needs(whole) and 1.1 < recomputed.flops / whole.flops < 1.4
    assert (
        recomputed.communication == whole.communication
        and recomputed.name == "DDP, gradient checkpointing"
    )
    best = tight.best
    assert (
        best.fits
        and (best.option.gradient_checkpointing or best.option.micro_batch_size)
        and best.seconds == min(w.seconds for w in tight.layouts if w.fits)
    )
    assert ("--gradient-checkpointing" in best.command) == best.option.gradient_checkpointing
    assert all(
        w.memory.get("not there at the same time", 0.0) >= -w.memory["gradients"]
        for w in tight.layouts
    )
    parts = len(counted[0]._steps)
    none = on(1.0)
    assert len(counted[0]._steps) <= parts + 4, "sizes in between cannot fit either"
    assert none.best is None and any(
        w.option.gradient_checkpointing and w.option.micro_batch_size for w in none.layouts
    )


def _clip(tokens):
    from amodal.plan.examples import synthetic_records

    return methods.build("clip", Encoder(synthetic_records(tokens, 2).fields, size="tiny"))


def test_the_verb_prints_a_plan_of_the_users_records(capsys, folder):
    cli.main(
        [
            "plan",
            "clip",
            "--data",
            str(folder),
            "--size",
            "nano",
            "--gpus",
            "1",
            "--samples",
            "1e5",
            "--method.width",
            "32",
        ]
    )
    said = capsys.readouterr().out
    assert (
        "one GPU" in said
        and "teacher" in said
        and "Not tested" in said
        and "records of pictures" in said
    )


def test_some_of_the_fields_are_planned(folder):
    asked = {"data": str(folder), "size": "nano", "gpus": 1, "samples": 1e4}
    both, one = (plan("mae", fields=fields, **asked) for fields in ((), ["image"]))
    lines = [next(x for x in p.notes if x.startswith("tokens per row")) for p in (both, one)]
    assert "text" in lines[0] and "image" in lines[1] and "text" not in lines[1]


def test_what_cannot_be_planned_says_why(capsys):
    for arguments, words in (
        (["--gpu", "h10"], "Did you mean h100"),
        (["--tokens", "imag=4"], "Did you mean image"),
        (["--tokens", "image=many"], "whole number"),
        (["--gpus", "7", "--batch", "64"], "multiple of 7"),
        (["clp"], "Did you mean clip"),
        (["--data", "digits", "--tokens", "image=4"], "not both"),
        (["--mfu", "40"], "between 0 and 1"),
        (["--fields", "image"], "say which with data"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["plan", *arguments])
        assert words in capsys.readouterr().err


def test_a_method_that_chooses_by_what_it_learnt_is_refused():
    with pytest.raises(AmodalError, match="cannot be counted"):
        plan("limoe", size="nano", gpus=1, batch_size=16, tokens={"image": 4, "text": 4})


def test_the_table_is_plain():
    out = io.StringIO()
    Console(file=out, width=150).print(
        plan("mae", size="nano", gpus=2, batch_size=8, samples=1000).table()
    )
    assert "losses of the whole batch" in out.getvalue() and "$3.60 per hour" in out.getvalue()


@pytest.mark.parametrize("method", ["byol", "moco_v3", "dino", "data2vec", "simsiam"])
def test_methods_with_features_of_their_own_are_planned(method):
    planned = plan(method, size="nano", gpus=2, samples=1e4, tokens={"image": 16}, batch_size=64)
    assert planned.best is not None and planned.best.seconds > 0


def test_a_backbone_from_scratch_is_counted_and_its_statistics_are_of_the_whole_batch():
    common = {"size": "nano", "gpus": 1, "samples": 1e4, "tokens": {"image": 16}}
    plain = plan("simclr", batch_size=64, **common)
    body = {"image": "timm:resnet10t@scratch"}
    deep = plan("simclr", batch_size=64, backbones=body, **common)
    assert deep.best.memory["weights"] > 4 * 4.5e6 > 4 * plain.best.memory["weights"]
    assert deep.best.seconds > 2 * plain.best.seconds
    many = plan("simclr", batch_size=2**17, backbones=body, **common)
    assert many.best is None and all(x.option.micro_batch_size is None for x in many.layouts)
    with pytest.raises(AmodalError, match="no field is called 'imagee'.*image"):
        plan("simclr", backbones={"imagee": "timm:resnet18@scratch"}, **common)


def test_losses_of_all_rows_cancel_in_many_micro_batches():
    m = weightless(lambda: made("clip"))
    steps = Steps(
        m, records(m, 96, patchy=False), lambda: torch.autocast("cpu", enabled=False), world=1
    )
    # one more forward pass of the features, and the same losses
    assert 1.1 < steps.cost(4096, 64).flops / steps.cost(4096).flops < 1.4


def test_of_a_method_in_stages_the_longest_is_counted():
    planned = plan("beit", size="nano", tokens={"image": 16}, gpus=1)
    note = next(note for note in planned.notes if "stages" in note)
    assert re.search(r"in 2 stages: counted is a step of stage 2, which has \d\d% of", note)

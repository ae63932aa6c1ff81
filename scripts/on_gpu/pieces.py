"""The pieces of `python -m scripts.on_gpu`: each a function of a device that returns what it found,
or raises.

python -m scripts.on_gpu.pieces PIECE --device cuda [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial

PARTS = 4
"""Pieces that the contract test of all methods is cut into, for each precision."""


def machine(device: str) -> dict:
    """What a result holds for."""
    import torch

    about: dict = {"torch": torch.__version__, "device": device}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "gpu": properties.name,
            "gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return about


def contract(part: int, precision: str, device: str, dry: bool) -> dict:
    """Every method on the device: its losses are those of a CPU, its gradients finite, and
    micro-batches give those of the whole."""
    import torch

    from amodal import methods
    from amodal.train.precision import context
    from amodal.train.step import gradients
    from tests.methods.bench import batch, method

    torch.backends.cuda.matmul.allow_tf32 = False
    names = ["clip", "mae", "dino"] if dry else methods.names()[part::PARTS]
    near, far = {"float32": (1e-3, 2e-2), "bf16": (0.1, 0.3)}[precision]
    failures, worst = {}, 0.0
    for name in names:
        try:
            found = {}
            for where in ("cpu", device):
                for micro in (None, 3) if where == device else (None,):
                    m = method(name).to(where)
                    exact = context(
                        precision if where == device else "float32", torch.device(where), 1024
                    )
                    terms = gradients(m, batch(m.views).to(where), micro=micro, precision=exact)
                    grads = {
                        n: p.grad.float().cpu()
                        for n, p in m.named_parameters()
                        if p.grad is not None and p.numel()
                    }
                    found[where, micro] = {k: float(v) for k, v in terms.items()}, grads
            (expected, _), (terms, whole), (_, pieces) = (
                found["cpu", None],
                found[device, None],
                found[device, 3],
            )
            for term, value in expected.items():
                error = abs(terms[term] - value) / max(abs(value), 1e-2)
                worst = max(worst, error)
                if not error <= near:
                    raise ValueError(f"{term} is {terms[term]:.5g}, and {value:.5g} on a CPU")
            largest = max(float(g.abs().max()) for g in whole.values())
            for parameter, g in whole.items():
                other = pieces.get(parameter, torch.zeros_like(g))
                if (
                    not float((g - other).abs().max()) <= far * largest
                ):  # also where one is not finite
                    raise ValueError(f"the gradient of {parameter} differs in micro-batches")
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"[:300]
    if failures:
        raise RuntimeError("; ".join(f"{n}: {why}" for n, why in failures.items()))
    return {"methods": len(names), "largest difference of a loss from a CPU's": worst}


def varlen(device: str, dry: bool) -> dict:
    """Attention on flat tokens against a dense masked softmax in float64, for every rule, order and
    precision, with and without a bias of distances."""
    import torch

    from amodal.core import Tokens
    from amodal.nn.attention.bias import Alibi2d, with_bias
    from amodal.nn.attention.masks import RULES, rule
    from amodal.nn.attention.varlen import attend, layout_of

    generator, heads, width = torch.Generator().manual_seed(0), 4, 32
    rows, longest = (6, 12) if dry else (64, 300)
    bags = []
    for name in ("image", "text"):
        lengths = torch.randint(0, longest, (rows,), generator=generator)
        count = int(lengths.sum())
        bags.append(
            Tokens.of(
                torch.zeros(count, 1),
                torch.arange(rows),
                lengths,
                4 * torch.rand(count, 3, generator=generator),
                name,
                rows,
            )
        )
    errors = {}
    halves = [torch.float32, torch.bfloat16] + [torch.float16] * device.startswith("cuda")
    for name, sources in (("one source", bags[:1]), *((r, bags) for r in RULES)):
        on_cpu = Tokens.join(sources)
        tokens = Tokens(
            *(t.to(device) for t in (on_cpu.x, on_cpu.row, on_cpu.source, on_cpu.position)),
            on_cpu.names,
            rows,
        )
        table = (
            RULES[name](tokens.names)
            if name in RULES and RULES[name]
            else torch.ones(2, 2, dtype=torch.bool)
        )
        may = table.to(device)[tokens.source][:, tokens.source] & (
            tokens.row[:, None] == tokens.row
        )
        for causal, biased in ((False, False), (True, False), (False, True), (True, True)):
            mask = may & may.new_ones(may.shape).tril() if causal else may
            layout = layout_of(tokens, rule(name) if name in RULES else None, causal)
            added = torch.zeros((), device=device)
            if biased:
                layout = with_bias(layout, tokens.position, Alibi2d(heads))
                place = tokens.position[None].double()
                added = Alibi2d(heads)(place, place)[0]
            inputs = [
                torch.randn(len(tokens), heads, width, generator=generator).to(device)
                for _ in range(3)
            ]
            for dtype in halves:
                q, k, v = (x.to(dtype).requires_grad_() for x in inputs)
                got = layout.leave(attend(*map(layout.enter, (q, k, v)), layout))
                exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
                score = torch.einsum("qhd,khd->hqk", exact[0], exact[1]) / width**0.5 + added
                want = torch.einsum(
                    "hqk,khd->qhd", score.masked_fill(~mask, -torch.inf).softmax(2), exact[2]
                )
                weight = torch.randn(got.shape, generator=generator).to(device)
                mine = [got, *torch.autograd.grad((got * weight.to(dtype)).sum(), (q, k, v))]
                true = [want, *torch.autograd.grad((want * weight).sum(), exact)]
                error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(mine, true))
                errors[f"{name}{', causal' * causal}{', biased' * biased}, {dtype}"] = error
                if not error < (1e-4 if dtype is torch.float32 else 3e-2):
                    raise ValueError(
                        f"{name}, causal {causal}, biased {biased}, {dtype}: off by {error:.2g}"
                    )
    return {
        "largest relative error": {
            str(d): max(e for n, e in errors.items() if str(d) in n) for d in halves
        }
    }


def one_process(device: str, dry: bool) -> dict:
    """A process group of one: NCCL on a GPU. Collectives, and a step of a trunk whose blocks are
    sharded (FSDP2)."""
    import torch
    import torch.distributed as dist

    from amodal.train import distributed
    from amodal.train.step import gradients
    from tests.methods.bench import batch, method

    gpu = device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            x = torch.arange(5.0, device=device)
            dist.all_reduce(x)
            parts = [torch.empty_like(x)]
            dist.all_gather(parts, x)
            assert torch.equal(parts[0], torch.arange(5.0, device=device))
            assert distributed.from_first(lambda: "onednn") == "onednn"
            plain, sharded = (method("clip").to(device) for _ in range(2))
            distributed.shard(sharded)
            whole = batch(plain.views).to(device)
            terms = [gradients(m, whole) for m in (plain, sharded)]
            theirs = dict(sharded.named_parameters())
            for name, p in plain.named_parameters():
                torch.testing.assert_close(
                    distributed.full_tensor(theirs[name].grad), p.grad, rtol=1e-3, atol=1e-5
                )
            wrapped = sum(hasattr(p, "device_mesh") for p in sharded.parameters())
        finally:
            dist.destroy_process_group()
    return {
        "backend": backend,
        "sharded parameters": wrapped,
        "losses": [float(sum(t.values())) for t in terms],
    }


def compiled(device: str, dry: bool) -> dict:
    """`torch.compile` of a block: one graph without a break, the same values, and what it saves."""
    import torch

    from amodal.core import Tokens
    from amodal.nn.attention.varlen import layout_of
    from amodal.nn.transformer import Block

    width, rows, length = (64, 4, 8) if dry else (768, 64, 197)
    row = torch.arange(rows).repeat_interleave(length)
    tokens = Tokens(
        torch.zeros(len(row), 1), row, torch.zeros_like(row), torch.zeros(len(row), 3), ("a",), rows
    )
    torch.manual_seed(0)
    block = Block(width, width // 64 or 1).to(device)
    x, layout = torch.randn(len(row), width, device=device), layout_of(tokens)
    quick = torch.compile(block.compute, fullgraph=True)
    half = torch.autocast(device.partition(":")[0], torch.bfloat16)
    milliseconds = {}
    from amodal.nn.drop_path import identity

    with half:
        for name, call in (("eager", block.compute), ("compiled", quick)):
            out = call(x, layout, None, identity)[0]
            if name == "eager":
                want = out
            torch.testing.assert_close(out, want, rtol=5e-2, atol=5e-2)

            def step(call=call) -> None:
                call(x, layout, None, identity)[0].float().sum().backward()

            step()
            milliseconds[name] = 1000 * median_seconds(step, device)
    return {"milliseconds of a block, forward and backward, bf16": milliseconds}


def median_seconds(call: Callable[[], object], device: str, repeat: int = 7) -> float:
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    took = []
    for _ in range(repeat):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        took.append(time.perf_counter() - begun)
    return sorted(took)[repeat // 2]


def memory(device: str, dry: bool) -> dict:
    """Peak memory of whole steps beyond weights and records, against what `amodal plan` counts."""
    import torch

    from amodal.nn.gradient_checkpointing import recomputation
    from amodal.plan.counting import count, weightless
    from amodal.train.step import gradients
    from benchmarks._timing import peak_mib
    from benchmarks.plan import build, records

    settings = [("clip", "nano", 8, False)] if dry else [
        ("clip", "base", 64, False), ("clip", "base", 256, True), ("simclr", "base", 64, False), ("mae", "base", 128, False),
        ("mae", "large", 64, True), ("dino", "small", 64, False),
    ]  # fmt: skip
    found, kind = {}, device.partition(":")[0]
    for name, size, rows, recompute in settings:
        planned = weightless(partial(build, name, size))
        half = torch.autocast("cpu", torch.bfloat16)
        expected = (
            count(
                planned,
                records(planned, rows),
                times=1,
                micro_batch_size=None,
                precision=half,
                gradient_checkpointing=recompute,
            ).peak
            / 2**20
        )
        real = build(name, size).to(device)
        batch = records(real, rows).to(device)

        def step(real=real, batch=batch, recompute=recompute) -> None:
            real.zero_grad(set_to_none=True)
            with recomputation(recompute):
                gradients(real, batch, precision=torch.autocast(kind, torch.bfloat16))

        step()
        real.zero_grad(set_to_none=True)
        measured = peak_mib(step)
        what = f"{name} {size}, {rows} rows{', recompute' * recompute}"
        found[what] = {"planned MiB": round(expected, 1), "measured MiB": round(measured, 1)}
    return found


def five_steps(number: int, device: str, dry: bool) -> dict:
    """A whole step of ours and of the library that people use, in the same precision: pictures a
    second and MFU."""
    import torch

    # read when the benches are imported: a ViT-B on pictures of 224 pixels has 197 tokens
    size, picture = ("nano", "32,8") if dry else ("base", "224,16")
    os.environ |= {"AMODAL_BENCH_SIZE": size, "AMODAL_BENCH_PICTURE": picture}
    from benchmarks import steps
    from benchmarks._limits import limits

    pair, rows, package = STEPS[number]
    try:
        __import__(package)
    except ImportError:
        return {"left out": f"{package} is not installed here"}
    what, mine, peer, other = getattr(steps, pair[0])(*pair[1:], rows=2 if dry else rows)
    rows = 2 if dry else rows
    found: dict = {
        "what": what,
        "peer": peer,
        "rows": rows,
        "parameters": [mine.parameters, other.parameters],
    }
    operations = steps.counted(lambda: mine.step("f32"))
    for precision in ("f32", "bf16"):
        took = {}
        for who, side in (("ours", mine), (peer, other)):
            side.step(precision)
            took[who] = median_seconds(partial(side.step, precision), device, 3 if dry else 9)
        found[precision] = {
            "rows a second": {who: round(rows / t, 1) for who, t in took.items()},
            "peer's time over ours": round(took[peer] / took["ours"], 3),
        }
        if not dry:  # of the rate of one large product, measured here
            peak = getattr(limits(torch.get_num_threads()), precision)
            found[precision]["MFU of ours"] = round(operations / took["ours"] / peak, 3)
    return found


STEPS: tuple[tuple[tuple, int, str], ...] = (
    (("clip",), 256, "open_clip"),
    (("simclr",), 128, "lightly"),
    (("mae", "lightly"), 256, "lightly"),
    (("mae", "transformers"), 256, "transformers"),
    (("dino",), 64, "lightly"),
)

PIECES: dict[str, Callable[[str, bool], dict]] = {
    **{
        f"contract-{p}-{i + 1}": partial(contract, i, p)
        for p in ("float32", "bf16")
        for i in range(PARTS)
    },
    "varlen": varlen,
    "one-process": one_process,
    "compile": compiled,
    "memory": memory,
    **{f"steps-{'-'.join(pair)}": partial(five_steps, i) for i, (pair, *_) in enumerate(STEPS)},
}
"""Name -> (device, whether at its smallest) -> what was found."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    try:
        result = {"ok": True, **PIECES[asked.piece](asked.device, asked.dry_run)}
    except Exception as error:
        traceback.print_exc()
        result = {"ok": False, "reason": f"{type(error).__name__}: {error}"[:2000]}
    result |= {"seconds": round(time.monotonic() - begun, 1)}
    try:
        result |= machine(asked.device)
    except Exception as error:  # no such device: the piece has said so
        result |= {"device": f"{asked.device} ({error})"[:300]}
    print("on_gpu result: " + json.dumps(result), flush=True)
    return int(not result["ok"])


if __name__ == "__main__":
    sys.exit(main())

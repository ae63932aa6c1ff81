"""Whole training steps (forward, loss, backward, optimizer, moving averages) of five methods
against the libraries people train them with.

Both sides have the same architecture, width, depth, tokens, batch and AdamW; ours are the method
pages, the optimizer, the clipping and the step of the training loop, theirs the library's own
models and losses with the optimizer settings of its trainer. "as it comes": ours picks its
precision (bf16 where the hardware multiplies it), theirs is float32. "f32" and "bf16": both in the
same precision, theirs by autocast. "f32, the same products": ours on CPUs of AMD sends float32
products to another library (`amodal.core.matmul`), and here the peer's go there too. The notes give
parameters and operations of a step of each side, which must agree within 7 %.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from amodal import modalities
from amodal.core import Ragged
from amodal.core.matmul import fast_products
from benchmarks import _steps as s
from benchmarks._limits import counted, of_peak
from benchmarks._timing import Row, on_one_thread, peak_mib, seconds

SIZE = os.environ.get("AMODAL_BENCH_SIZE", "small")  # 384 wide, 12 blocks, 6 heads
PRECISIONS = ("f32", "bf16")
SAME = "f32, the same products"
GOALS = {"as it comes": 1.5, "f32": 1.1, SAME: 1.1, "bf16": 1.1}
NEAR = 0.07

PEERS = ("timm", "lightly", "open_clip_torch", "transformers")


@on_one_thread()
def run() -> list[Row]:
    return [row for pair in PAIRS for row in compared(*pair())]


def compared(what: str, mine: s.Side, peer: str, other: s.Side, repeat: int = 3) -> Iterator[Row]:
    """A row for each precision, of one measurement of both sides in both precisions, in turns.
    Raises ValueError if the two sides do not do the same work."""
    work = [counted(lambda side=side: side.step("f32")) for side in (mine, other)]
    for name, (a, b) in {
        "parameters": (mine.parameters, other.parameters),
        "operations": work,
    }.items():
        if abs(math.log(a / b)) > NEAR:
            raise ValueError(f"{what}: {a:,} {name} against {peer}'s {b:,} are not the same work")
    note = (
        f"{what}: {mine.parameters / 1e6:.2f} M parameters and {work[0] / 1e9:.1f} G operations a step, "
        f"{peer} {other.parameters / 1e6:.2f} M and {work[1] / 1e9:.1f} G."
    )
    calls = {
        (who, p): partial(side.step, p)
        for p in PRECISIONS
        for who, side in (("ours", mine), ("peer", other))
    }
    calls["peer", SAME] = fast_products()(partial(other.step, "f32"))
    for call in calls.values():
        call()
    took: dict[tuple, list[float]] = {which: [] for which in calls}
    for turn in range(repeat):
        for which in list(calls) if turn % 2 == 0 else reversed(calls):
            took[which].append(seconds(calls[which]))
    mib = {}
    for which, call in calls.items():
        for side in (mine, other):  # gradients of the step before would be freed within this one
            side.parts.zero_grad(set_to_none=True)
        mib[which] = peak_mib(call)
    auto = "bf16" if s.computes_in_bf16("auto", SIZE) else "f32"
    modes = [
        ("as it comes", auto, "f32"),
        ("f32", "f32", "f32"),
        (SAME, "f32", SAME),
        ("bf16", "bf16", "bf16"),
    ]
    for mode, a, b in modes:
        ours, theirs = ("ours", a), ("peer", b)
        ratios = [y / x for x, y in zip(took[ours], took[theirs])]
        x, y = (1000 * statistics.median(took[which]) for which in (ours, theirs))
        ends = min(ratios), max(ratios)
        row = Row(
            f"{what}, {mode}", peer, statistics.median(ratios), x, y, mib[ours], mib[theirs], ends
        )
        yield replace(of_peak(row, work[0], a), goal=GOALS[mode], note=note)


def clip(rows: int = 16, length: int = 32) -> tuple:
    fields = s.image_field() | {"text": modalities.make("text", max_length=length, patch=1)}
    texts = Ragged(
        torch.full((rows * (length - 1),), 100), torch.full((rows,), length - 1)
    )  # and a class token
    batch = s.whole(rows, {"image": s.pictures(rows), "text": texts})
    mine = s.ours("clip", fields, batch, SIZE, {"pool": "cls"})
    return "CLIP", mine, "open_clip", s.theirs(s.open_clip(rows, SIZE, length))


def simclr(rows: int = 16) -> tuple:
    batch = s.whole(rows, {f"image:{i}": s.pictures(rows, seed=i) for i in (1, 2)})
    mine = s.ours("simclr", s.image_field(), batch, SIZE, {"pool": "cls"})
    return "SimCLR", mine, "lightly", s.theirs(s.lightly_simclr(rows, SIZE))


def mae(peer: str, rows: int = 32, ratio: float = 0.75, depth: int = 2) -> tuple:
    batch = s.whole(rows, {"image": s.pictures(rows)})
    mine = s.ours(
        "mae", s.image_field(), batch, SIZE, {"pool": "cls"}, ratio=ratio, decoder_depth=depth
    )
    make = {"lightly": s.lightly_mae, "transformers": s.transformers_mae}[peer]
    return "MAE", mine, peer, s.theirs(make(rows, SIZE, ratio, depth))


def dino(rows: int = 8, prototypes: int = 1024, local: int = 4) -> tuple:
    views = [
        s.pictures(rows, s.SIDE if i <= 2 else s.SIDE // 2, seed=i) for i in range(1, 3 + local)
    ]
    batch = s.whole(rows, {f"image:{i + 1}": view for i, view in enumerate(views)})
    options = {"prototypes": prototypes, "local_views": local}
    mine = s.ours("dino", s.image_field(), batch, SIZE, {"pool": "cls"}, **options)
    return "DINO", mine, "lightly", s.theirs(s.lightly_dino(rows, SIZE, prototypes, local))


def videomae(rows: int = 8, ratio: float = 0.9, depth: int = 4) -> tuple:
    """512 tokens of 2 x 8 x 8 pixels in three colours: for ours, 8 steps of 48 channels."""
    names = [f"c{i}" for i in range(48)]
    fields = {"clip": modalities.make("series", channels=names, patch=8, max_steps=4096)}
    flat = torch.rand(rows * 4096, 48, generator=torch.Generator().manual_seed(0))
    batch = s.whole(rows, {"clip": Ragged(flat, torch.full((rows,), 4096))})
    mine = s.ours("mae", fields, batch, SIZE, {"pool": "mean"}, ratio=ratio, decoder_depth=depth)
    return (
        "VideoMAE, 512 tokens",
        mine,
        "transformers",
        s.theirs(s.transformers_videomae(rows, SIZE, ratio, depth)),
    )


PAIRS: tuple[Callable[[], tuple], ...] = (
    clip,
    simclr,
    lambda: mae("lightly"),
    lambda: mae("transformers"),
    dino,
    videomae,
)

"""Objectives at a batch of 32,768, forward and backward in float32: the memory they need beyond
their inputs, beside what the matrix of similarities alone would take (4 GiB), which the published
forms hold at least once. One pass each, so no ratio of speed."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from amodal.objectives.balance import balanced_info_nce
from amodal.objectives.focal_info_nce import focal_info_nce
from amodal.objectives.gram_volume import gram_info_nce
from amodal.objectives.hard_negative import hard_negative_nce
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.margin import ranking_hinge
from amodal.objectives.multi_view import mv_dhel, mv_info_nce
from amodal.objectives.sigmoid import sigmoid_loss
from amodal.objectives.smoothed_info_nce import smoothed_info_nce
from amodal.objectives.soft_info_nce import SimilarityTargets, SparseTargets, soft_info_nce
from amodal.objectives.swalip import swalip
from benchmarks._timing import Row, peak_mib
from benchmarks.alignment import table
from benchmarks.losses import DEVICE, _inputs, _step

ROWS, WIDTH, TEMPERATURE = 32768, 64, 0.1
WHOLE = ROWS**2 * 4 / 2**20  # MiB


def _row(what: str, loss: Callable[..., Tensor], inputs: list[Tensor]) -> Row:
    step, start = _step(loss, inputs), time.process_time()
    mib = peak_mib(step)
    return Row(
        what,
        "N x N matrix, by count",
        math.nan,
        1000 * (time.process_time() - start),
        math.nan,
        mib,
        WHOLE,
        (math.nan,) * 2,
    )


def run() -> list[Row]:
    pair, three = _inputs(2, ROWS, WIDTH), _inputs(3, ROWS // 2, WIDTH)
    partner = torch.arange(ROWS - 1, -1, -1, device=DEVICE)
    shares = torch.linspace(0.5, 1, ROWS, device=DEVICE)
    other = [x.detach() for x in _inputs(2, ROWS, WIDTH)]
    lines = {
        "InfoNCE": lambda a, b: info_nce(a, b, temperature=TEMPERATURE),
        "NT-Xent": lambda a, b: nt_xent(a, b, temperature=TEMPERATURE),
        "SigLIP": lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
        "smoothed InfoNCE": lambda a, b: smoothed_info_nce(a, b, temperature=TEMPERATURE),
        "soft InfoNCE, two positives": lambda a, b: soft_info_nce(
            a, b, SparseTargets.mixup(partner, shares), temperature=TEMPERATURE
        ),
        "soft InfoNCE, another space's": lambda a, b: soft_info_nce(
            a, b, SimilarityTargets(*other, 0.1), temperature=TEMPERATURE
        ),
        "focal InfoNCE": lambda a, b: focal_info_nce(a, b, temperature=TEMPERATURE, gamma=2.0),
        "hard negatives": hard_negative_nce,
        "balanced InfoNCE": lambda a, b: balanced_info_nce(a, b, temperature=TEMPERATURE),
        "SwALIP": lambda a, b: swalip(a, b, *other, temperature=TEMPERATURE),
        "ranking hinge": lambda a, b: ranking_hinge(a, b, margin=0.2),
    }
    rows = [_row(f"{name} N {ROWS}", loss, pair) for name, loss in lines.items()]
    multi_view = {
        "MV-InfoNCE, 3 views": lambda *v: mv_info_nce(*table(*v), temperature=TEMPERATURE),
        "MV-DHEL, 3 views": lambda *v: mv_dhel(*table(*v), temperature=TEMPERATURE),
        "GRAM, 3 fields": lambda a, *o: gram_info_nce(a, o, temperature=TEMPERATURE),
    }
    return rows + [_row(f"{name}, N {ROWS // 2}", loss, three) for name, loss in multi_view.items()]

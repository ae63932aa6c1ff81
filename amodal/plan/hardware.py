"""Accelerators as their makers publish them, and what an hour costs. Numbers to edit: a plan is only as good as they are.

Peaks are of dense matrix products (no sparsity): bf16 with float32 sums, and float32 as torch runs it unless told otherwise, which is
without TF32. From the makers' data sheets as of 2025. Prices are US dollars for an hour of one accelerator on demand, as of 2025 and
rounded: they differ by a factor of three between providers, so give your own (`--price`).
"""

from __future__ import annotations

from dataclasses import dataclass

from amodal.errors import unknown

AS_OF = "2025"


@dataclass(frozen=True)
class Accelerator:
    """half, single: FLOP/s of matrix products in bf16 and in float32; memory: bytes; bandwidth: bytes/s of its memory; link: bytes/s it
    sends to the others in its machine; network: bytes/s it sends to other machines, as such machines are usually sold; price: dollars an
    hour; launch: seconds from the start of one operation to the start of the next, as eager torch issues them."""

    half: float
    single: float
    memory: float
    bandwidth: float
    link: float
    network: float
    price: float
    launch: float = 8e-6


TERA, GIGA = 1e12, 1e9
GPUS = {
    "l4": Accelerator(121 * TERA, 30.3 * TERA, 24 * GIGA, 300 * GIGA, 32 * GIGA, 3 * GIGA, 0.8),
    "l40s": Accelerator(362 * TERA, 91.6 * TERA, 48 * GIGA, 864 * GIGA, 32 * GIGA, 12.5 * GIGA, 1.5),
    "a100": Accelerator(312 * TERA, 19.5 * TERA, 80 * GIGA, 2039 * GIGA, 300 * GIGA, 25 * GIGA, 2.0),
    "h100": Accelerator(989 * TERA, 67 * TERA, 80 * GIGA, 3350 * GIGA, 450 * GIGA, 50 * GIGA, 3.0),
    "h200": Accelerator(989 * TERA, 67 * TERA, 141 * GIGA, 4800 * GIGA, 450 * GIGA, 50 * GIGA, 3.8),
    "b200": Accelerator(2250 * TERA, 75 * TERA, 180 * GIGA, 7700 * GIGA, 900 * GIGA, 50 * GIGA, 5.5),
}
"""SXM boards where there are any; l4 and l40s are PCIe cards."""


def accelerator(name: str) -> Accelerator:
    if name.lower() not in GPUS:
        raise unknown("accelerator", name, GPUS, "Its numbers stand in amodal/plan/hardware.py.")
    return GPUS[name.lower()]

"""float32 matrix products by the library that is quick on this CPU.

torch sends them to MKL, which on AMD uses half the width of the vector units: 110 GFLOP/s a core where oneDNN, which torch has too,
does 250 (torch 2.13, EPYC with AVX-512, `python -m benchmarks steps`). torch takes oneDNN where products may be rounded to bf16; oneDNN
rounds only on CPUs with AMX, which are left alone here, and that it does not round is looked at once in each process.
"""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from functools import cache

import torch
from torch import Tensor

PLAIN, ALLOWED = "highest", "medium"
"""What torch calls float32 products, and those that may be rounded to bf16."""


@cache
def helps() -> bool:
    """Whether oneDNN is the quicker one here and gives float32: AMD, AVX-512, no AMX, and no GPU, which the setting would reach too."""
    about: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.12 does not tell
    suits = about.get("avx512_f", False) and not about.get("amx_tile", True) and "AMD" in about.get("cpu_name", "")
    if not suits or not torch.backends.mkldnn.is_available() or torch.cuda.is_available():
        return False
    torch.set_float32_matmul_precision(ALLOWED)
    try:
        some = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64).mul(0.37).sin()
        return bool((some @ some - some.double() @ some.double()).abs().max() < 1e-4)  # bf16 would be off by 1e-2
    finally:
        torch.set_float32_matmul_precision(PLAIN)


def _setting() -> str | None:
    """What the process has set; None if it was set for some libraries alone, which is then left as it is."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


class fast_products(ContextDecorator):
    """Within it, or in a function decorated with it, large float32 products are computed by the quicker library, in float32 as before.

    The setting is the process's: it holds for all threads from the first that enters until the last leaves, and then is what it was.
    Somebody who has set another one keeps it.
    """

    _lock, _inside, on = threading.Lock(), 0, False

    def __enter__(self) -> fast_products:
        cls = fast_products
        with cls._lock:
            if not cls._inside and _setting() == PLAIN and helps():
                torch.set_float32_matmul_precision(ALLOWED)
                cls.on = True
            cls._inside += 1
        return self

    def __exit__(self, *_) -> None:
        cls = fast_products
        with cls._lock:
            cls._inside -= 1
            if not cls._inside and cls.on:
                torch.set_float32_matmul_precision(PLAIN)
                cls.on = False


def are_fast(x: Tensor) -> bool:
    """Whether products of `x` go to the quicker library now."""
    return fast_products.on and x.dtype is torch.float32 and x.device.type == "cpu"

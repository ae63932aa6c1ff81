"""float32 matrix products by the library that is quicker on this CPU.

torch sends them to its own BLAS (MKL on x86). oneDNN, which torch has too, is quicker on some CPUs
and slower on others of the same brand: on two EPYCs with AVX-512 it came to 227 against 110 GFLOP/s
a core, and to 0.8 … 0.9 of the other. So nobody can tell by the name of a CPU, and it is measured:
once for each machine, kept in the user's cache folder. The choice changes the last bits of a
product, so a run keeps it in its config and goes on with it.

torch takes oneDNN where products may be rounded to bf16. Some CPUs then round; there oneDNN is not
a choice, which is measured too.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from amodal.core.cache_dir import cache_dir
from amodal.errors import AmodalError, unknown

CHOICES = ("auto", "torch", "onednn")
"""auto: what is measured to be quicker here; torch: what torch chooses; onednn: oneDNN."""

PLAIN, ALLOWED = "highest", "medium"
"""What torch calls float32 products, and those that may be rounded to bf16."""

MARGIN = 1.1
"""oneDNN is taken where it is so much quicker; below it a measurement would decide by chance."""

SHAPE = (2048, 384, 1536)
"""(rows, inner, columns) of the product that is measured: the MLP of a block 384 wide, on 2048
tokens."""

REPEATS = 5
LARGEST_ERROR = 1e-5
"""Of a product, as a share of its largest value; rounded to bf16 it would be off by 1e-3 or more.
"""


@dataclass(frozen=True)
class Measurement:
    """GFLOP/s of one large float32 product by each library, and whether oneDNN's is as exact as
    float32 should be."""

    torch: float
    onednn: float
    exact: bool

    @property
    def choice(self) -> str:
        return "onednn" if self.exact and self.onednn > MARGIN * self.torch else "torch"


def measure() -> Measurement:
    """Take the measurement: a fifth of a second on a core of today."""
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = SHAPE
    a, b = (
        torch.randn(rows, inner, generator=generator),
        torch.randn(inner, columns, generator=generator),
    )
    seconds: dict[str, list[float]] = {PLAIN: [], ALLOWED: []}
    before, product = torch.get_float32_matmul_precision(), a
    try:
        for i in range(REPEATS + 1):
            for setting, found in seconds.items():
                torch.set_float32_matmul_precision(setting)
                begun = time.perf_counter()
                product = a @ b
                if i:  # the first call of each also loads its code
                    found.append(time.perf_counter() - begun)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a[:256].double() @ b.double()
    error = float(
        (product[:256] - exact).abs().max() / exact.abs().max()
    )  # of the last product, which is oneDNN's
    rate = {
        setting: 2e-9 * rows * inner * columns / min(found) for setting, found in seconds.items()
    }
    return Measurement(round(rate[PLAIN], 1), round(rate[ALLOWED], 1), error < LARGEST_ERROR)


@cache
def measured() -> Measurement | None:
    """What is known of this machine: measured now if it never was. None where there is no choice,
    see `reason_against`."""
    if reason_against():
        return None
    file, key = cache_dir() / "matmul.json", machine()
    if (known := _read(file).get(key)) is not None:
        return known
    taken = measure()
    # another process may have measured in the meantime; whichever comes first holds for all, since
    # the choice changes bits
    return _keep(file, key, taken)


def machine() -> str:
    """What a measurement holds for: a kind of CPU, a number of threads and a version of torch."""
    about: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.12 does not say
    name = about.get("cpu_name") or _cpu_name() or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return ""
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def reason_against() -> str:
    """Why oneDNN is no choice here, as a clause; "" where it is."""
    if torch.cuda.is_available():
        return "the setting would reach the GPU's products too and round them"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without it"
    return ""


def _read(file: Path) -> dict[str, Measurement]:
    """All that is kept; nothing where the file is missing or no longer readable, for then it is
    measured anew."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {key: Measurement(**entry) for key, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(file: Path, key: str, taken: Measurement) -> Measurement:
    """Write a measurement beside the others, unless one of this machine stands there by now.
    Returns the one that holds."""
    known = _read(file)
    if key in known:
        return known[key]
    entries = {k: asdict(m) for k, m in (known | {key: taken}).items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, delete=False, encoding="utf-8"
        ) as draft:
            json.dump(entries, draft, indent=1)
        os.replace(draft.name, file)
    except (
        OSError
    ):  # a cache that cannot be written costs a measurement in each process, and nothing else
        return taken
    return taken


def choose(option: str = "auto") -> str:
    """The library for an option of `CHOICES`: "torch" or "onednn". Raises AmodalError where it
    cannot be had."""
    if option not in CHOICES:
        raise unknown("matmul", option, CHOICES)
    if option == "torch":
        return option
    found = measured()
    if option == "auto":
        return found.choice if found is not None else "torch"
    exact = found is not None and found.exact
    if reason := reason_against() or ("" if exact else "here it rounds them to bf16"):
        raise AmodalError(
            f"float32 products by oneDNN are no choice: {reason}; take matmul = auto or torch"
        )
    return option


def for_run(
    option: str,
    stored: str | None,
    agree: Callable[[Callable[[], str]], str] = lambda decide: decide(),
) -> str:
    """The library of a run, which goes on with the one that it began with.

    Args:
        option: of `CHOICES`, what is asked for now. stored: what the config of the run says; None
        for a new run, or one from before there was a choice. agree: a function that lets one
        process decide for all, `train.distributed.from_first`.

    Raises: AmodalError where a run would go on with another library than it began with.
    """
    if option not in CHOICES:
        raise unknown("matmul", option, CHOICES)
    if stored is None:
        return agree(lambda: choose(option))
    if option not in ("auto", stored):
        raise AmodalError(
            f"this run began with matmul = {stored} and cannot go on with {option}, which changes the last bits of every product"
        )
    return agree(lambda: choose(stored))


def described() -> str:
    """One line for people: what was measured, and what follows."""
    found = measured()
    if found is None:
        return f"products as torch chooses: {reason_against()}"
    rates = f"{found.torch:.0f} GFLOP/s by torch, {found.onednn:.0f} by oneDNN"
    rounds = "" if found.exact else ", which rounds them to bf16"
    taken = {"onednn": "oneDNN", "torch": "torch's"}[found.choice]
    return f"{rates}{rounds}; training and evaluation take {taken} (--matmul auto)"


def _setting() -> str | None:
    """What the process has set; None if it was set for some libraries alone, which is then left as
    it is."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


class fast_products(ContextDecorator):
    """Within it, or in a function decorated with it, large float32 products are computed by a
    library of `CHOICES`.

    The setting is the process's: it holds for all threads from the first that enters until the last
    leaves, and then is what it was. What the first has chosen holds for those inside it. Somebody
    who has set torch's own switch keeps it.
    """

    _lock, _inside, on = threading.Lock(), 0, False

    def __init__(self, choice: str = "auto"):
        if choice not in CHOICES:
            raise unknown("matmul", choice, CHOICES)
        self.choice = choice

    def __enter__(self) -> fast_products:
        cls = fast_products
        with cls._lock:
            if not cls._inside and _setting() == PLAIN and choose(self.choice) == "onednn":
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
    """Whether products of `x` go to oneDNN now."""
    return fast_products.on and x.dtype is torch.float32 and x.device.type == "cpu"

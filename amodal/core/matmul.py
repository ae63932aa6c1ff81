"""float32 matrix products by the faster library on this CPU.

torch uses its own BLAS (MKL on x86). oneDNN, which torch has too, is faster on some CPUs and slower
on others of the same brand. On two EPYCs with AVX-512 it reached 227 against 110 GFLOP/s a core on
the first, and 0.8 to 0.9 of MKL on the second. The name of a CPU does not predict it, so it is
measured once per machine and cached. The choice changes the last bits of a product, so a run stores
it in its config and continues with it.

torch uses oneDNN where products may be rounded to bf16. Some CPUs do round then. oneDNN is not
available there, which is measured too.
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
"""auto: the faster one by measurement; torch: the default of torch; onednn: oneDNN."""

PLAIN, ALLOWED = "highest", "medium"
"""torch's precisions of float32 products, and of those that may be rounded to bf16."""

MARGIN = 1.1
"""oneDNN is chosen if it is faster by this factor; a wrong choice below it costs as little.

It is no bound on noise: on two shared cores repeated measurements of one library differed by 1.2,
once by 2, where oneDNN was 2.2 to 3.4 times as fast.
"""

SHAPE = (2048, 384, 1536)
"""(rows, inner, columns) of the measured product: the MLP of a block 384 wide, on 2048 tokens."""

REPEATS = 5
LARGEST_ERROR = 1e-5
"""Of a product, relative to its largest value. With bf16 rounding it is 1e-3 or more."""


@dataclass(frozen=True)
class Measurement:
    """GFLOP/s of one large float32 product by each library.

    Args:
        exact: Whether oneDNN's product has float32 precision.
    """

    torch: float
    onednn: float
    exact: bool

    @property
    def choice(self) -> str:
        return "onednn" if self.exact and self.onednn > MARGIN * self.torch else "torch"


def measure() -> Measurement:
    """Measure both libraries, in about 0.2 s."""
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = SHAPE
    a = torch.randn(rows, inner, generator=generator)
    b = torch.randn(inner, columns, generator=generator)
    seconds: dict[str, list[float]] = {PLAIN: [], ALLOWED: []}
    before, product = torch.get_float32_matmul_precision(), a
    try:
        for i in range(REPEATS + 1):
            for setting, times in seconds.items():
                torch.set_float32_matmul_precision(setting)
                start = time.perf_counter()
                product = a @ b
                if i:  # the first call of each also loads its code
                    times.append(time.perf_counter() - start)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a[:256].double() @ b.double()
    # the last product is oneDNN's
    error = float((product[:256] - exact).abs().max() / exact.abs().max())
    rate = {
        setting: 2e-9 * rows * inner * columns / min(times) for setting, times in seconds.items()
    }
    return Measurement(round(rate[PLAIN], 1), round(rate[ALLOWED], 1), error < LARGEST_ERROR)


@cache
def measured() -> Measurement | None:
    """The measurement of this machine, from the cache or taken now.

    None where there is no choice, see `reason_against`.
    """
    if reason_against():
        return None
    file, key = cache_dir() / "matmul.json", machine()
    if (known := _read(file).get(key)) is not None:
        return known
    # another process may have measured in the meantime; the first one counts for all, since the
    # choice changes bits
    return _store(file, key, measure())


def machine() -> str:
    """The key of a measurement: CPU, number of threads and version of torch."""
    # torch before 2.12 does not have it
    about: dict[str, str] = getattr(torch.cpu, "get_capabilities", dict)()
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
    """Why oneDNN is not available here, as a clause; "" where it is."""
    if torch.cuda.is_available():
        return "the setting would also round products on the GPU"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without it"
    return ""


def _read(file: Path) -> dict[str, Measurement]:
    """All cached measurements; none if the file is missing or damaged."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {key: Measurement(**entry) for key, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _store(file: Path, key: str, taken: Measurement) -> Measurement:
    """Cache a measurement unless one exists by now. Returns the one that counts."""
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
    except OSError:
        # without a cache each process measures once more
        return taken
    return taken


def choose(option: str = "auto") -> str:
    """The library for an option of `CHOICES`: "torch" or "onednn".

    Raises:
        AmodalError: If oneDNN is requested and not available.
    """
    if option not in CHOICES:
        raise unknown("matmul", option, CHOICES)
    if option == "torch":
        return option
    measurement = measured()
    if option == "auto":
        return measurement.choice if measurement is not None else "torch"
    exact = measurement is not None and measurement.exact
    if reason := reason_against() or ("" if exact else "here it rounds them to bf16"):
        raise AmodalError(
            f"float32 products by oneDNN are not available: {reason}; take matmul = auto or torch"
        )
    return option


def for_run(
    option: str,
    stored: str | None,
    agree: Callable[[Callable[[], str]], str] = lambda decide: decide(),
) -> str:
    """The library of a run. A resumed run continues with the same one.

    Args:
        option: The requested one, of `CHOICES`.
        stored: The one in the config of the run; None for a new run.
        agree: Lets one process decide for all, as `train.distributed.from_first`.

    Raises:
        AmodalError: If a resumed run would change the library.
    """
    if option not in CHOICES:
        raise unknown("matmul", option, CHOICES)
    if stored is None:
        return agree(lambda: choose(option))
    if option not in ("auto", stored):
        raise AmodalError(
            f"this run began with matmul = {stored} and cannot continue with {option}, "
            "which changes the last bits of every product"
        )
    return agree(lambda: choose(stored))


def described() -> str:
    """The measurement and the choice, as a line for `amodal doctor`."""
    measurement = measured()
    if measurement is None:
        return f"products by torch's default library: {reason_against()}"
    rates = f"{measurement.torch:.0f} GFLOP/s by torch, {measurement.onednn:.0f} by oneDNN"
    rounds = "" if measurement.exact else ", which rounds them to bf16"
    library = {"onednn": "oneDNN", "torch": "torch's"}[measurement.choice]
    return f"{rates}{rounds}; training and evaluation take {library} (--matmul auto)"


def _setting() -> str | None:
    """The precision set in this process; None if it differs between libraries."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


class fast_products(ContextDecorator):
    """Context manager and decorator: compute large float32 products by a library of `CHOICES`.

    The setting is global to the process. It holds for all threads from the first that enters until
    the last leaves, and the first one's choice counts. If the user has set torch's precision, that
    is left unchanged.
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

    def __exit__(self, *_: object) -> None:
        cls = fast_products
        with cls._lock:
            cls._inside -= 1
            if not cls._inside and cls.on:
                torch.set_float32_matmul_precision(PLAIN)
                cls.on = False


def are_fast(x: Tensor) -> bool:
    """Whether products of `x` are computed by oneDNN now."""
    return fast_products.on and x.dtype is torch.float32 and x.device.type == "cpu"

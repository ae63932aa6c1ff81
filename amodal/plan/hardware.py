"""Accelerators: published figures and prices. Edit them, since a plan is only as good as they are.

Looked up on 2026-11-25, in copies of the sources named here. Peaks are of dense matrix products,
which is half of what data sheets print "with sparsity". bf16 is with float32 accumulation, float32
is torch's default, without TF32. `memory` is what the driver gives to programs; data sheets round
it. Data sheets count both directions of a link, `link` counts one.

Prices are US dollars for an hour of one accelerator on demand, about the median of the providers.
They differ by a factor of three at one time, and changed by half within a year. So set your own
(`--price`).
"""

from __future__ import annotations

from dataclasses import dataclass

from amodal.errors import unknown

AS_OF = "autumn 2026"


@dataclass(frozen=True)
class Accelerator:
    """An accelerator.

    Args:
        half, single: FLOP/s of matrix products in bf16 and in float32.
        memory: Bytes.
        bandwidth: Bytes/s of its memory.
        link: Bytes/s it sends to the others in its machine.
        network: Bytes/s it sends to other machines, in a usual configuration.
        price: US dollars per hour.
        launch: Seconds between the starts of two operations, in eager torch.
    """

    half: float
    single: float
    memory: float
    bandwidth: float
    link: float
    network: float
    price: float
    launch: float = 8e-6


TERA, GIGA, MIB = 1e12, 1e9, 2**20
GPUS = {
    # NVIDIA L4 data sheet (2023): 242 TFLOP/s bf16 with sparsity, 30.3 float32, 300 GB/s, PCIe 4.0
    # x16. Memory: nvidia-smi, as modal-labs
    # list it (modal-client, pull request 2797, 2025-01). Network (100 Gbit/s for eight) and price:
    # not confirmed.
    "l4": Accelerator(121 * TERA, 30.3 * TERA, 23034 * MIB, 300 * GIGA, 32 * GIGA, 1.6 * GIGA, 0.8),
    # NVIDIA L40S data sheet (2023): 362.05 dense, 733 sparse bf16; 91.6; 864 GB/s; PCIe 4.0 x16.
    # Memory: as above. Network (400 Gbit/s for
    # eight): not confirmed. Price: RunPod, 0.79 to 0.99 (2026-03, 2026-09); large clouds ask about
    # twice that.
    "l40s": Accelerator(
        362 * TERA, 91.6 * TERA, 46068 * MIB, 864 * GIGA, 32 * GIGA, 6.25 * GIGA, 1.2
    ),
    # NVIDIA A100 data sheet (80 GB SXM, r4, 2021): 312 dense, 19.5, 2,039 GB/s, NVLink 600 GB/s.
    # Memory: as above. Network: 200 Gbit/s each
    # (Azure ND A100 v4), not confirmed; AWS p4d has 400 for eight (its price list, 2025-01). Price:
    # RunPod 1.79, Lambda 2.79, AWS p4de 3.43
    # (2026-09 to 2026-11), Vast.ai 1.70 (2026-10).
    "a100": Accelerator(
        312 * TERA, 19.5 * TERA, 81920 * MIB, 2039 * GIGA, 300 * GIGA, 25 * GIGA, 1.8
    ),
    # NVIDIA H100 data sheet (SXM, 2023): 1,979 bf16 with sparsity, 67, 3.35 TB/s, NVLink 900 GB/s.
    # Memory: as above. Network: 3,200 Gbit/s
    # for eight (AWS price list of p5, 2025-01). Price: median of 16 providers, 2.58 to 6.16
    # (compute-screener, 2026-10-24).
    "h100": Accelerator(
        989 * TERA, 67 * TERA, 81559 * MIB, 3350 * GIGA, 450 * GIGA, 50 * GIGA, 3.6
    ),
    # NVIDIA H200 data sheet (SXM, SC23): as H100, with 141 GB at 4.8 TB/s. Memory: nvidia-smi, many
    # reports. Network, price: as for H100,
    # the median of 11 providers, 3.45 to 6.31.
    "h200": Accelerator(
        989 * TERA, 67 * TERA, 143771 * MIB, 4800 * GIGA, 450 * GIGA, 50 * GIGA, 5.0
    ),
    # NVIDIA HGX B200 (2025): 36 PFLOP/s bf16 with sparsity and 600 TFLOP/s float32 of eight (an
    # earlier brief: 80 each), NVLink 1.8 TB/s,
    # network 0.8 TB/s for eight both ways. Memory: nvidia-smi in TensorRT-LLM, issue 10278
    # (2025-12). Bandwidth: 7.67 TB/s of the driver's
    # bus width and clock, pytorch/ao, pull request 4002 (2026-03); the data sheet rounds it up to
    # 8. Price: Lambda 6.69 (2026-09), RunPod
    # 5.98 and 6.79 (2026-08).
    "b200": Accelerator(
        2250 * TERA, 75 * TERA, 183359 * MIB, 7670 * GIGA, 900 * GIGA, 50 * GIGA, 6.7
    ),
    # AMD Instinct MI300X data sheet (2023): 1,307.4 dense bf16, 163.4 float32, 192 GB (GiB in
    # ROCm's tables), 5.3 TB/s, Infinity Fabric
    # 896 GB/s; torchtitan uses 1.3 PFLOP/s (pull request 920, 2025-03). Network: 8 x 400 Gbit/s
    # (Azure ND MI300X v5, 2024-05). Price: 1.71
    # and 1.85 (TensorWave, Vultr, 2025); newer not confirmed. Nothing of this library has run under
    # ROCm.
    "mi300x": Accelerator(
        1307 * TERA, 163.4 * TERA, 192 * 1024 * MIB, 5300 * GIGA, 448 * GIGA, 50 * GIGA, 2.0
    ),
}
"""SXM and OAM boards where there are any; l4 and l40s are PCIe cards."""


def accelerator(name: str) -> Accelerator:
    """The accelerator of a name, in any case.

    Raises:
        AmodalError: If it is unknown.
    """
    if name.lower() not in GPUS:
        raise unknown("accelerator", name, GPUS, "Add its figures to amodal/plan/hardware.py.")
    return GPUS[name.lower()]

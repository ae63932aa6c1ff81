"""What other tools call the options and settings of this one.

It imports nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Iterable

from amodal.errors import AmodalError, unknown

USUAL = {
    "accum-freq": "micro-batch-size",
    "amp": "precision",
    "arch": "backbone",
    "bf16": "precision",
    "bs": "batch-size",
    "checkpoint": "init-from",
    "data-dir": "data",
    "data-path": "data",
    "dataset": "data",
    "dtype": "precision",
    "ema-decay": "ema",
    "fp16": "precision",
    "grad-clip": "clip",
    "gradient-accumulation-steps": "micro-batch-size",
    "image-size": "resolution",
    "img-size": "resolution",
    "input-size": "resolution",
    "learning-rate": "lr",
    "lr-scheduler": "schedule",
    "max-epochs": "epochs",
    "max-grad-norm": "clip",
    "max-steps": "steps",
    "model": "backbone",
    "n-epochs": "epochs",
    "num-epochs": "epochs",
    "num-steps": "steps",
    "num-workers": "workers",
    "opt": "optimizer",
    "output": "out",
    "output-dir": "out",
    "pretrained": "init-from",
    "save-dir": "out",
    "save-steps": "save-every",
    "target": "label",
    "top-k": "k",
    "topk": "k",
    "warmup-ratio": "warmup",
    "wd": "weight-decay",
}
"""What other tools call an option of the command line -> what it is called here."""


def unknown_setting(kind: str, name: str, names: Iterable[str], hint: str = "") -> AmodalError:
    """The error for a setting that there is not; what other tools call one is understood.

    Args:
        kind: What it should be the name of, such as "setting of pretrain".
        name: As in Python, with underscores.
        names: Of the settings that there are.
        hint: A sentence to add.
    """
    names = tuple(names)
    usual = USUAL.get(name.replace("_", "-"), "").replace("-", "_")
    meant = next((n for n in (usual, f"{usual}s") if n in names), "")
    return unknown(kind, name, names, hint, meant=meant)

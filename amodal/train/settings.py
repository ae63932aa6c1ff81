"""What `pretrain` may be asked for, beside the method, the data and the folder of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset

CACHED = ("", "mean", "tokens")


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

     size, trunk, positions, pool: of the encoder (see `amodal.nn.encoder.Encoder`); by default what
    the method's paper uses. epochs or steps: how long (50 epochs unless given). sources: the fields
    to use, all unless given. batch, lr follow from `size` unless given; micro: rows computed at
    once, which saves memory and changes nothing else. recompute: activation checkpointing, which
    does so too: of a block only its input is saved, and the rest is computed twice. backbones:
    field -> pretrained backbone, which stays as it is unless train_backbones. average: momentum of
    a moving average of the weights to save instead of the last ones. resume: go on with the run in
    `out`. options: of the method. curate: a page of `amodal.curate` that chooses what is trained
    on, of super-batches 1 / keep as large; curate_options: its options. init_from: the folder of a
    run whose encoder's weights to begin with, as far as names and shapes agree. adapt: go on with
    that encoder itself, as it was built, to predict labels; what it holds is what a resumed run
    must agree with. only: (dataset, training records) -> those of them to learn from. remember:
    "mean" or "tokens" of the outputs of frozen backbones are computed once, of values that are not
    augmented (see `amodal.train.cache_features`); "" runs the backbones at every step. conflict:
    log whether the terms of the loss pull the same way, at each measurement; costs a few steps and
    changes nothing.
    """

    size: str = "tiny"
    epochs: int | None = None
    steps: int | None = None
    sources: Sequence[str] | None = None
    seed: int = 0
    resume: bool = False
    batch: int | None = None
    micro: int | None = None
    lr: float | None = None
    trunk: str | None = None
    positions: str | None = None
    pool: str | None = None
    backbones: dict[str, str] | None = None
    train_backbones: bool = False
    precision: str = "auto"
    average: float = 0.0
    shard: bool = False
    recompute: bool = False
    workers: int = 0
    device: str = "auto"
    checkpoint_every: int = 0
    options: dict[str, object] = field(default_factory=dict)
    curate: str = ""
    curate_options: dict[str, object] = field(default_factory=dict)
    init_from: str | Path = ""
    adapt: dict[str, object] | None = None
    only: Callable[[Dataset, np.ndarray], np.ndarray] | None = None
    remember: str = ""
    conflict: bool = False
    progress: bool = True

    def __post_init__(self):
        for name in ("epochs", "steps", "batch", "micro", "lr"):
            number = getattr(self, name)
            if number is not None and number <= 0:
                raise AmodalError(f"{name} must be more than 0, not {number}")
        if self.remember not in CACHED:
            raise unknown("part of features to cache", self.remember, CACHED[1:])
        if self.steps is not None and self.epochs is not None:
            raise AmodalError("give epochs or steps, not both")

    @staticmethod
    def of(**settings) -> Settings:
        """The same, of keywords that may be misspelt."""
        names = [f.name for f in fields(Settings)]
        for name in settings:
            if name not in names:
                raise unknown("setting of pretrain", name, names)
        optional = ("options", "curate_options")
        return Settings(**{k: v for k, v in settings.items() if v is not None or k not in optional})

    @property
    def encoder(self) -> dict[str, str]:
        """What was asked of the encoder."""
        asked = {"trunk": self.trunk, "positions": self.positions, "pool": self.pool}
        return {name: value for name, value in asked.items() if value is not None}

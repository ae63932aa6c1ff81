"""MiniRocket's features of time series, where a library that has them is installed.

Dempster, Schmidt and Webb 2021, arXiv:2012.08791: shares of positive values after fixed
convolutions. They are the strongest features without training that are known for series.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from amodal.modalities.shared.base import NoSimpleFeatures, Raw
from amodal.modalities.shared.simple import Decode, Scaled, fitted, sample

NAME = "MiniRocket"
KERNELS = 2000
MIN_STEPS, MAX_STEPS = 9, 512
"""Of a series; others are interpolated to the median length within these."""
LIBRARIES = (
    ("aeon.transformations.collection.convolution_based", "MiniRocket", "n_kernels"),
    ("sktime.transformations.panel.rocket", "MiniRocketMultivariate", "num_kernels"),
)
"""Module, class and the name of its option."""


class Transformer(Protocol):
    """What both libraries have. x: (n, C, t)."""

    def fit(self, x: npt.NDArray[np.float32]) -> object: ...
    def transform(self, x: npt.NDArray[np.float32]) -> Any: ...


class Rocket:
    """Raw values -> (n, F) features, which say that they are MiniRocket's.

    Args:
        decode_all: Raw values -> (t, C) of each, NaN where a sample is missing.
        model: MiniRocket, fitted.
        steps: Length that series are brought to.
        scaled: Brings its columns to one scale.
    """

    name = NAME

    def __init__(self, decode_all: Decode, model: Transformer, steps: int, scaled: Scaled):
        self.decode_all, self.model, self.steps, self.scaled = decode_all, model, steps, scaled

    @property
    def state(self) -> dict[str, Any]:
        """See `FittedFeatures`."""
        return {"model": self.model, "steps": self.steps} | self.scaled.state

    def __call__(self, raws: Sequence[Raw]) -> npt.NDArray[np.float32]:
        """(n, F) float32."""
        return self.scaled(raws)


def transformer() -> Transformer | None:
    """MiniRocket of aeon or of sktime, None where neither is installed."""
    for module, name, option in LIBRARIES:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
        return cast(Transformer, found(**{option: KERNELS}, random_state=0))
    return None


def rocket(decode_all: Decode, train: Sequence[Raw], model: Transformer) -> Rocket:
    """MiniRocket's features, and the log length.

    Args:
        decode_all: Raw values -> (t, C) of each, NaN where a sample is missing.
        train: Raw values to fit to.
        model: MiniRocket, not fitted.

    Raises:
        NoSimpleFeatures: There is no value to fit on.
        BadValue: A value cannot be decoded.
    """
    values = decode_all(sample(train))
    if not len(values):
        raise NoSimpleFeatures("there is no value to fit simple features on")
    steps = int(np.clip(np.median([len(value) for value in values]), MIN_STEPS, MAX_STEPS))
    model.fit(_of_length(values, steps))
    scaled = fitted(partial(_groups, decode_all, model, steps), train)
    return Rocket(decode_all, model, steps, scaled)


def restored(decode_all: Decode, state: Mapping[str, Any]) -> Rocket:
    """MiniRocket's features as they were fitted once.

    Args:
        decode_all: Raw values -> (t, C) of each, NaN where a sample is missing.
        state: Of a `Rocket`.
    """
    model, steps = state["model"], state["steps"]
    rest = {name: value for name, value in state.items() if name not in ("model", "steps")}
    return Rocket(
        decode_all, model, steps, Scaled(partial(_groups, decode_all, model, steps), **rest)
    )


def _groups(
    decode_all: Decode, model: Transformer, steps: int, raws: Sequence[Raw]
) -> list[npt.NDArray[np.float64]]:
    decoded = decode_all(raws)
    length = np.log([[max(len(value), 1)] for value in decoded])
    features = np.asarray(model.transform(_of_length(decoded, steps)), dtype=np.float64)
    return [length, features]


def _of_length(values: Sequence[npt.NDArray[np.float32]], steps: int) -> npt.NDArray[np.float32]:
    """(n, C, steps), interpolated in time and where samples are missing; 0 for none."""
    out = np.zeros((len(values), values[0].shape[1], steps), dtype=np.float32)
    for series, value in zip(out, values):
        for row, channel in zip(series, value.T):
            present = np.flatnonzero(np.isfinite(channel))
            if len(present):
                times = np.linspace(0, len(channel) - 1, steps)
                row[:] = np.interp(times, present, channel[present])
    return out

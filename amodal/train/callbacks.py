"""Callbacks: objects with any of the hooks `on_step`, `on_log` and `on_checkpoint`.

class PrintLoss:
    def on_log(self, progress, values):
        print(progress.step, values["loss"])

amodal.pretrain("clip", "photos", "runs/first", callbacks=[PrintLoss()])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Embeddings, unknown
from amodal.core.embeddings import FUSED, vectors
from amodal.core.references import load_reference
from amodal.core.user_code import user_code
from amodal.data import Dataset, Loader, class_numbers
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.train.hooks import calls_hook, check_callbacks, logged_values


@dataclass(frozen=True)
class Progress:
    """The state of a run that callbacks see.

    Args:
        step: Optimizer steps done, 1, 2, …, of `steps`.
        encoder: What would be saved now: the average of the weights if there is one.
        run: The run folder.
    """

    step: int
    steps: int
    method: Method
    encoder: Encoder
    run: Path


@runtime_checkable
class OnStep(Protocol):
    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        """Called after each step.

        Args:
            terms: Of the loss, on the device. Reading one waits for the device.
        """
        ...


@runtime_checkable
class OnLog(Protocol):
    def on_log(self, progress: Progress, values: Mapping[str, float]) -> Mapping[str, float] | None:
        """Called before an entry of the log is written.

        Returns:
            Values to add to the entry, or None.
        """
        ...


@runtime_checkable
class OnCheckpoint(Protocol):
    def on_checkpoint(self, progress: Progress, path: Path) -> None:
        """Called after a checkpoint was written to the folder `path`."""
        ...


Hook = TypeVar("Hook", OnStep, OnLog, OnCheckpoint)
Callback = OnStep | OnLog | OnCheckpoint
Indices = npt.NDArray[np.int64]
MIN_ROWS = 8
"""Held-out records that a measurement needs."""


class Callbacks:
    """Calls the hooks of all callbacks, in order, on every process.

    They have a random state of their own, so they do not change the random numbers of the run.

    Raises:
        AmodalError: If an object has no hook, or one that cannot be called.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()):
        check_callbacks(callbacks)
        self.callbacks = list(callbacks)

    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        for callback in _isolated([c for c in self.callbacks if isinstance(c, OnStep)]):
            with calls_hook(callback, "on_step", progress.step):
                callback.on_step(progress, terms)

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> dict[str, float]:
        """The values, and those that callbacks add to them."""
        entry = dict(values)
        for callback in _isolated([c for c in self.callbacks if isinstance(c, OnLog)]):
            with calls_hook(callback, "on_log", progress.step):
                returned = callback.on_log(progress, entry)
            entry |= logged_values(callback, returned, progress.step)
        return entry

    def on_checkpoint(self, progress: Progress, path: Path) -> None:
        for callback in _isolated([c for c in self.callbacks if isinstance(c, OnCheckpoint)]):
            with calls_hook(callback, "on_checkpoint", progress.step):
                callback.on_checkpoint(progress, path)


def _isolated(callbacks: Sequence[Hook]) -> Iterator[Hook]:
    """Callbacks, while random numbers that are drawn do not change the state of the run."""
    if not callbacks:
        return
    # a run with callbacks must give the same weights as one without
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield from callbacks


@torch.no_grad()
def embed_records(
    encoder: Encoder, dataset: Dataset, rows: Indices, *, aligned: bool
) -> Embeddings:
    """Embed some records in evaluation mode.

    Args:
        rows: (n,) numbers of records.
        aligned: Whether to project into the common space.

    Returns:
        source -> (N, D), on the CPU.
    """
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    parts = []
    for batch in Loader(dataset, rows, batch=256, shuffle=False):
        features = encoder.features(batch.to(device))
        parts.append(encoder.project(features) if aligned else features)
    encoder.train(training)
    whole = Embeddings.stack(parts)
    on_cpu = {source: column.to("cpu") for source, column in whole.columns.items()}
    return Embeddings(on_cpu, whole.size)


class OnlineProbe:
    """A linear probe of the features of held-out records: ridge regression on half of them.

    Logs `probe/LABEL/SOURCE`: the accuracy on the other half, or R² where the label is a number.

    Args:
        data: A Dataset with the label. Its validation part is used.
        every: Steps between measurements; 0 for a twentieth of the run.
        rows: Maximum number of records.
        ridge: Penalty, times the number of records.
    """

    def __init__(
        self, data: Dataset, label: str, *, every: int = 0, rows: int = 512, ridge: float = 1e-2
    ):
        self.data, self.label, self.every, self.ridge = data, label, every, ridge
        values, self.classes = class_numbers(data.label(label, required=True))
        labelled = values >= 0 if self.classes else ~np.isnan(values)
        self.rows = _held_out(data, labelled, rows)
        self.values = torch.as_tensor(values[self.rows])

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> dict[str, float]:
        if not _due(progress, self.every):
            return {}
        features = embed_records(
            progress.encoder,
            self.data.with_fields(progress.encoder.fields),
            self.rows,
            aligned=False,
        )
        scores = {
            f"probe/{self.label}/{s}": self._score(vectors(features[s]), features[s].rows)
            for s in features
        }
        return {name: score for name, score in scores.items() if score is not None}

    def _score(self, x_ND: Tensor, rows_N: Tensor) -> float | None:
        """Fit on even rows, score on odd ones; None where there are too few of either."""
        fit = torch.arange(len(rows_N)) % 2 == 0
        y = self.values[rows_N]
        if min(int(fit.sum()), int((~fit).sum())) < MIN_ROWS // 2:
            return None
        target = (
            nn.functional.one_hot(y, len(self.classes)).double()
            if self.classes
            else y.double()[:, None]
        )
        x = x_ND.double()
        # standardised by the fitted half alone, and a column of ones for the intercept
        x = torch.cat([(x - x[fit].mean(0)) / (x[fit].std(0) + 1e-6), x.new_ones(len(x), 1)], 1)
        # ridge regression in closed form: (X^T X + ridge n I)^-1 X^T Y, in float64
        gram = x[fit].T @ x[fit] + self.ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        predicted = x[~fit] @ torch.linalg.solve(gram, x[fit].T @ target[fit])
        if self.classes:
            return float((predicted.argmax(1) == y[~fit]).double().mean())
        residual = (target[~fit] - predicted).square().sum()
        deviation = target[~fit] - target[~fit].mean()
        return float(1 - residual / deviation.square().sum().clamp(min=1e-12))


class OnlineRetrieval:
    """Cross-source retrieval among held-out records.

    Logs `retrieval/A>B`: recall at 1 from each source to each other one.

    Args:
        data: A Dataset. Its validation part is used.
        every: Steps between measurements; 0 for a twentieth of the run.
        rows: Maximum number of records.
    """

    def __init__(self, data: Dataset, *, every: int = 0, rows: int = 512):
        self.data, self.every = data, every
        self.rows = _held_out(data, np.ones(len(data), dtype=bool), rows)

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> dict[str, float]:
        if not _due(progress, self.every):
            return {}
        embeddings = embed_records(
            progress.encoder,
            self.data.with_fields(progress.encoder.fields),
            self.rows,
            aligned=True,
        )
        sources = [s for s in embeddings if s != FUSED]
        recalls = {}
        for a, b in itertools.permutations(sources, 2):
            x_ND, y_ND = embeddings.pair(a, b)
            if len(x_ND) > 1:
                cosines = nn.functional.normalize(x_ND) @ nn.functional.normalize(y_ND).T
                hits = cosines.argmax(1) == torch.arange(len(cosines))
                recalls[f"retrieval/{a}>{b}"] = float(hits.double().mean())
        return recalls


def _held_out(data: Dataset, usable: npt.NDArray[np.bool_], rows: int) -> Indices:
    held_out: Indices = data.split("valid")
    held_out = held_out[usable[held_out]][:rows]
    if len(held_out) < MIN_ROWS:
        raise AmodalError(
            f"{data.name!r} has {len(held_out)} held-out records that can be measured; "
            f"at least {MIN_ROWS} are needed"
        )
    return held_out


def _due(progress: Progress, every: int) -> bool:
    every = every or max(progress.steps // 20, 10)
    return progress.step % every == 0 or progress.step == progress.steps


BUILT_IN: dict[str, Callable[..., Callback]] = {"probe": OnlineProbe, "retrieval": OnlineRetrieval}


def from_spec(spec: str, data: Dataset) -> Callback:
    """The callback of an option `--callback`.

    Args:
        spec: `probe:LABEL`, `retrieval`, or the reference of a function or class that is called
            with the data: `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        AmodalError: If there is no such callback.
    """
    name, _, rest = spec.rpartition(":") if ".py:" in spec or "." in spec else spec.partition(":")
    if name in BUILT_IN:
        if (name == "probe") != bool(rest):
            raise AmodalError(f"--callback {spec}: it is probe:LABEL or retrieval")
        return BUILT_IN[name](data, rest) if rest else BUILT_IN[name](data)
    if not rest or "." not in name:
        raise unknown("callback", spec, BUILT_IN, "Or FILE.py:NAME, which is called with the data.")
    make = load_reference(spec)
    if not callable(make):
        raise AmodalError(f"--callback {spec}: {rest} is not a function or class")
    with user_code(f"--callback {spec}: {rest}(), called with the data,", make):
        made = make(data)
    if made is None:
        raise AmodalError(
            f"--callback {spec}: {rest}(), called with the data, returned no callback"
        )
    return cast(Callback, made)

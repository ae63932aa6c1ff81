"""What may look on while a method trains: any object with any of the three hooks; two that ship.

class Shout:
    def on_log(self, progress, values):
        print(progress.step, values["loss"])

amodal.pretrain("clip", "photos", "runs/first", callbacks=[Shout()])
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.data import Dataset, Loader, class_numbers
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    step: optimizer steps done, 1, 2, …, of `steps`. encoder: what would be saved now, the average
    if there is one. run: its folder.
    """

    step: int
    steps: int
    method: Method
    encoder: nn.Module
    run: Path


@runtime_checkable
class OnStep(Protocol):
    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        """Called after each step. terms: of the loss, on the device: to read one waits for it."""
        ...


@runtime_checkable
class OnLog(Protocol):
    def on_log(self, progress: Progress, values: Mapping[str, float]) -> Mapping[str, float] | None:
        """Called before an entry of the log is written. Returns: values to add to it."""
        ...


@runtime_checkable
class OnCheckpoint(Protocol):
    def on_checkpoint(self, progress: Progress, path: Path) -> None:
        """Called after a checkpoint was written to `path`."""
        ...


Hook = TypeVar("Hook", OnStep, OnLog, OnCheckpoint)
Callback = OnStep | OnLog | OnCheckpoint
HOOKS = ("on_step", "on_log", "on_checkpoint")


class Callbacks:
    """Calls the hooks of all, in order, on every process. Random numbers that they draw are not
    those of the run.

    Raises AmodalError for an object without any hook.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()):
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
                raise AmodalError(
                    f"a callback has one of {', '.join(HOOKS)}; {type(callback).__name__} has none of them"
                )

    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        for callback in self._with(OnStep):
            callback.on_step(progress, terms)

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> dict[str, float]:
        """The values with what callbacks add to them."""
        entry = dict(values)
        for callback in self._with(OnLog):
            entry |= callback.on_log(progress, entry) or {}
        return entry

    def on_checkpoint(self, progress: Progress, path: Path) -> None:
        for callback in self._with(OnCheckpoint):
            callback.on_checkpoint(progress, path)

    def _with(self, protocol: type[Hook]) -> Iterator[Hook]:
        having = [callback for callback in self.callbacks if isinstance(callback, protocol)]
        if not having:
            return
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield from having


@torch.no_grad()
def embedded(
    encoder: Encoder, dataset: Dataset, rows: Sequence[int], *, aligned: bool
) -> Embeddings:
    """The features of some records, or their vectors in the common space, on the CPU.

    The encoder stays in its mode.
    """
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    parts = []
    for batch in Loader(dataset, rows, batch=256, shuffle=False):
        features = encoder.features(batch.to(device))
        parts.append(encoder.project(features) if aligned else features)
    encoder.train(training)
    whole = Embeddings.stack(parts)
    return Embeddings(
        {source: column.to("cpu") for source, column in whole.columns.items()}, whole.size
    )


class OnlineProbe:
    """How well a label can be read from the features of held-out records, by ridge regression on
    half of them.

    Logs `probe/LABEL/SOURCE`: the accuracy on the other half, or R² where the label is a number.

    Args:
        data: a Dataset with the label; its validation part is used.
        every: steps between measurements; a twentieth of the run unless given.
        rows: records at most.
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
        features = embedded(
            progress.encoder,
            self.data.with_fields(progress.encoder.fields),
            self.rows,
            aligned=False,
        )
        scores = {
            f"probe/{self.label}/{s}": self._score(features[s].values, features[s].rows)
            for s in features
        }
        return {name: score for name, score in scores.items() if score is not None}

    def _score(self, x_ND: Tensor, rows_N: Tensor) -> float | None:
        """Even rows learn, odd rows are scored; None where there are too few of either."""
        learn = torch.arange(len(rows_N)) % 2 == 0
        y = self.values[rows_N]
        if min(int(learn.sum()), int((~learn).sum())) < 4:
            return None
        target = (
            nn.functional.one_hot(y, len(self.classes)).double()
            if self.classes
            else y.double()[:, None]
        )
        x = x_ND.double()
        x = torch.cat([(x - x[learn].mean(0)) / (x[learn].std(0) + 1e-6), x.new_ones(len(x), 1)], 1)
        gram = x[learn].T @ x[learn] + self.ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        predicted = x[~learn] @ torch.linalg.solve(gram, x[learn].T @ target[learn])
        if self.classes:
            return float((predicted.argmax(1) == y[~learn]).double().mean())
        left, spread = (
            (target[~learn] - predicted).square().sum(),
            target[~learn] - target[~learn].mean(),
        )
        return float(1 - left / spread.square().sum().clamp(min=1e-12))


class OnlineRetrieval:
    """How often the nearest vector of another source is that of the same record, among held-out
    records.

    Logs `retrieval/A>B`: recall at 1 from each source to each other one.

    Args:
        data: a Dataset; its validation part is used.
        every: steps between measurements; a twentieth of the run unless given.
        rows: records at most.
    """

    def __init__(self, data: Dataset, *, every: int = 0, rows: int = 512):
        self.data, self.every = data, every
        self.rows = _held_out(data, np.ones(len(data), dtype=bool), rows)

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> dict[str, float]:
        if not _due(progress, self.every):
            return {}
        vectors = embedded(
            progress.encoder,
            self.data.with_fields(progress.encoder.fields),
            self.rows,
            aligned=True,
        )
        sources = [s for s in vectors if s != FUSED]
        found = {}
        for a in sources:
            for b in sources:
                x_ND, y_ND = vectors.pair(a, b) if a != b else ((), ())
                if len(x_ND) > 1:
                    nearest = (
                        nn.functional.normalize(x_ND) @ nn.functional.normalize(y_ND).T
                    ).argmax(1)
                    found[f"retrieval/{a}>{b}"] = float(
                        (nearest == torch.arange(len(nearest))).double().mean()
                    )
        return found


def _held_out(data: Dataset, usable: np.ndarray, rows: int) -> np.ndarray:
    held = data.split("valid")
    held = held[usable[held]][:rows]
    if len(held) < 8:
        raise AmodalError(
            f"{data.name!r} has {len(held)} held-out records that can be measured; at least 8 are needed"
        )
    return held


def _due(progress: Progress, every: int) -> bool:
    every = every or max(progress.steps // 20, 10)
    return progress.step % every == 0 or progress.step == progress.steps


SHIPPED: dict[str, Callable[..., Callback]] = {"probe": OnlineProbe, "retrieval": OnlineRetrieval}


def named(spec: str, data: Dataset) -> Callback:
    """The callback that a word of the command line names.

    Args:
        spec: `probe:LABEL`, `retrieval`, or `FILE.py:NAME` or `package.module:NAME`, called with
            the data.
    """
    name, _, rest = spec.rpartition(":") if ".py:" in spec or "." in spec else spec.partition(":")
    if name in SHIPPED:
        if (name == "probe") != bool(rest):
            raise AmodalError(f"--callback {spec}: it is probe:LABEL or retrieval")
        return SHIPPED[name](data, rest) if rest else SHIPPED[name](data)
    if not rest or "." not in name:
        raise unknown("callback", spec, SHIPPED, "Or FILE.py:NAME, which is called with the data.")
    maker = getattr(_module(name), rest, None)
    if not callable(maker):
        raise AmodalError(f"--callback {spec}: {name} has no function or class {rest}")
    return maker(data)


def _module(name: str):
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise AmodalError(f"{name} cannot be imported: {error}") from error
    path = Path(name)
    if not path.is_file():
        raise AmodalError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module

"""Where metrics go beside metrics.jsonl.

TensorBoard, W&B, MLflow, Trackio, or any callable `(step, values) -> None`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from amodal.core import AmodalError, unknown

Logger = Callable[[int, Mapping[str, float]], None]
"""(step, name -> value). A logger with `close` is closed when the run ends."""

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def needed(name: str) -> ModuleType:
    """The package of a logger. Raises AmodalError that says what to install."""
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise AmodalError(
            f"the logger {name} needs a package: pip install {PACKAGES[name]} ({error})"
        ) from error


class TensorBoard:
    """Files in RUN/tensorboard."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_at or None)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


class Wandb:
    """Weights & Biases, as a run of the project `amodal` that a resumed run goes on with."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        identity = str(run.resolve()).replace("/", "-").strip("-")[-64:]
        self.run = needed("wandb").init(
            project="amodal",
            name=run.name,
            id=identity,
            resume="allow",
            dir=str(run),
            config=dict(config),
        )

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow, as a run of the experiment `amodal`."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        self.mlflow = needed("mlflow")
        self.mlflow.set_experiment("amodal")
        self.mlflow.start_run(run_name=run.name)
        self.mlflow.log_dict(dict(config), "config.json")

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        named = {
            name.replace(">", "-to-").replace("~", "-and-").replace(":", "-"): v
            for name, v in values.items()
        }
        self.mlflow.log_metrics(named, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


class Trackio:
    """Trackio, as a run of the project `amodal`."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        self.trackio = needed("trackio")
        self.trackio.init(project="amodal", name=run.name, config=dict(config), resume="allow")

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        self.trackio.finish()


LOGGERS: dict[str, Callable[..., Any]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def checked(loggers: str | Logger | Sequence[str | Logger] | None) -> tuple[str | Logger, ...]:
    """Names and callables, one or more.

    Raises AmodalError for others, and for a name whose package is not there.
    """
    if loggers is None:
        return ()
    every = (loggers,) if isinstance(loggers, str) or callable(loggers) else tuple(loggers)
    for logger in every:
        if isinstance(logger, str):
            if logger not in LOGGERS:
                raise unknown("logger", logger, LOGGERS)
            if logger in PACKAGES:
                needed(logger)
        elif not callable(logger):
            raise AmodalError(
                f"a logger is a name or a callable (step, values) -> None, not {type(logger).__name__}"
            )
    return every


def start(
    loggers: Sequence[str | Logger], run: Path, config: Mapping[str, object], resume_at: int
) -> list[Logger]:
    """Loggers that are ready to be called."""
    return [
        LOGGERS[one](run, config, resume_at) if isinstance(one, str) else one for one in loggers
    ]

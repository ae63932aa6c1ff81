"""Loggers: TensorBoard, W&B, MLflow, Trackio, or any callable `(step, values) -> None`.

metrics.jsonl is always written, see `amodal.train.log`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from amodal.core import AmodalError, unknown
from amodal.train.hooks import calls_logger, check_logger

Logger = Callable[[int, Mapping[str, float]], None]
"""(step, name -> value). A logger with `close` is closed when the run ends."""

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def import_package(name: str) -> ModuleType:
    """The package of a logger.

    Raises:
        AmodalError: If it is not installed.
    """
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
    """Weights & Biases, project `amodal`. A resumed run continues the same W&B run."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        identity = str(run.resolve()).replace("/", "-").strip("-")[-64:]
        self.run = import_package("wandb").init(
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
    """MLflow, experiment `amodal`."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        self.mlflow = import_package("mlflow")
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
    """Trackio, project `amodal`."""

    def __init__(self, run: Path, config: Mapping[str, object], resume_at: int = 0):
        self.trackio = import_package("trackio")
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


def check_loggers(
    loggers: str | Logger | Sequence[str | Logger] | None,
) -> tuple[str | Logger, ...]:
    """Check names and callables, and return them as a tuple.

    Raises:
        AmodalError: For anything else, and for a name whose package is not installed.
    """
    if loggers is None:
        return ()
    if isinstance(loggers, str) or not isinstance(loggers, Sequence | Set):
        every: tuple[str | Logger, ...] = (loggers,)
    else:
        every = tuple(loggers)
    for logger in every:
        if isinstance(logger, str):
            if logger not in LOGGERS:
                raise unknown("logger", logger, LOGGERS)
            if logger in PACKAGES:
                import_package(logger)
        else:
            check_logger(logger)
    return every


def make_loggers(
    loggers: Sequence[str | Logger], run: Path, config: Mapping[str, object], resume_at: int
) -> list[Logger]:
    """Create the loggers that are given by name; callables are returned unchanged.

    Raises:
        AmodalError: If the package of one cannot start it.
    """
    made: list[Logger] = []
    for logger in loggers:
        if isinstance(logger, str):
            with calls_logger(logger, "to start"):
                made.append(LOGGERS[logger](run, config, resume_at))
        else:
            made.append(logger)
    return made

"""How a method is trained.

One record that a page, Python, the command line and a run's config read.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from amodal.errors import AmodalError, unknown

OPTIMIZERS = ("adamw", "sgd", "lars", "lamb", "lion", "muon", "adafactor")
SCHEDULES = ("cosine", "constant", "step", "plateau")
PRECISIONS = ("auto", "float32", "bf16")
SCALING = re.compile(r"(linear|sqrt)/([1-9]\d*)")

OLD_NAMES = {
    "batch": "batch_size",
    "micro": "micro_batch_size",
    "recompute": "gradient_checkpointing",
    "shard": "fsdp",
    "average": "ema",
    "sources": "fields",
    "senses": "fields",
    "checkpoint_every": "save_every",
    "remember": "cache_features",
}
"""Names of options of the release before, which are read for one more."""


def _option(default: object, help: str) -> typing.Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """How a method is trained. `None` leaves a choice to the size of the encoder, the method or the
    data.

    A bad value is an AmodalError that names the field, what it was given and what it takes.
    """

    optimizer: str = _option("adamw", f"{', '.join(OPTIMIZERS)}")
    lr: float | None = _option(None, "peak learning rate; by default the encoder's size decides")
    lr_scaling: str = _option(
        "none", "linear/256 or sqrt/256: times the batch size over 256, or its root"
    )
    weight_decay: float = _option(0.05, "of matrices; biases, norms and tokens never decay")
    weight_decay_end: float | None = _option(
        None, "weight decay at the end, reached by half a cosine"
    )
    betas: tuple[float, float] = _option(
        (0.9, 0.95), "of AdamW, LAMB, Lion, and Muon's AdamW for vectors"
    )
    momentum: float = _option(0.9, "of SGD, LARS and Muon")
    schedule: str = _option("cosine", f"of the learning rate: {', '.join(SCHEDULES)}")
    warmup: float = _option(0.05, "share of the steps in which the learning rate rises")
    warmup_steps: int | None = _option(None, "the same in steps")
    warmup_epochs: float | None = _option(None, "the same in epochs")
    milestones: tuple[float, ...] = _option(
        (0.6, 0.8), "schedule step: shares of the steps at which the rate drops"
    )
    decay_rate: float = _option(
        0.1, "schedule step and plateau: times the learning rate at each drop"
    )
    patience: int = _option(
        5, "schedule plateau: log entries without a lower loss before the rate drops"
    )
    clip: float = _option(1.0, "largest norm of the gradient; 0: any")
    drop_path: float = _option(
        0.0, "chance to leave out the last block's update of a row; first blocks: less"
    )
    layer_decay: float = _option(
        1.0, "times the learning rate, for each layer further from the output"
    )
    ema: float = _option(
        0.0, "momentum of an average of the weights that is saved; 0: save the last ones"
    )
    views: Mapping[str, tuple[str, ...]] | None = _option(
        None,
        "FIELD or MODALITY=VIEW,VIEW: how values are augmented; by default as the method has it",
    )
    resolution: int | None = _option(
        None, "side of pictures in pixels; by default as the data says"
    )
    batch_size: int | None = _option(None, "rows in one update, over all processes")
    micro_batch_size: int | None = _option(
        None, "rows computed at once; saves memory, changes nothing else"
    )
    precision: str = _option("auto", "auto, float32 or bf16")
    epochs: float | None = _option(
        None, "passes over the training records (50 unless steps are set)"
    )
    steps: int | None = _option(None, "optimizer steps, instead of epochs")
    gradient_checkpointing: bool = _option(
        False, "compute blocks twice instead of storing them; saves memory, changes nothing else"
    )
    fsdp: bool = _option(False, "shard the blocks over processes (FSDP2), under torchrun")
    stages: tuple[float, ...] | None = _option(
        None, "where the stages of a method end, as shares of the steps"
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, _typed(name, value))
        self._check_choices()
        self._check_numbers()
        self._check_lengths()

    def _check_choices(self) -> None:
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.lr_scaling != "none" and not SCALING.fullmatch(self.lr_scaling):
            raise _bad(
                "lr_scaling", self.lr_scaling, "none, linear/ROWS or sqrt/ROWS, such as linear/256"
            )

    def _check_numbers(self) -> None:
        for name, accepts, words in _RANGES:
            value = getattr(self, name)
            if value is not None and not accepts(value):
                raise _bad(name, value, words)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise _bad("betas", self.betas, "two numbers from 0 to below 1")
        for name in ("milestones", "stages"):
            shares = getattr(self, name) or ()
            if list(shares) != sorted(set(shares)) or not all(0 < share <= 1 for share in shares):
                raise _bad(name, shares, "shares of the steps that rise, from above 0 to 1")
        if self.stages is not None and self.stages[-1:] != (1.0,):
            raise _bad("stages", self.stages, "shares of the steps that end with 1")

    def _check_lengths(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise AmodalError(
                f"give epochs or steps, not both: epochs is {self.epochs:g} and steps is {self.steps}"
            )
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise AmodalError(
                f"give warmup_steps or warmup_epochs, not both: they are {self.warmup_steps} and {self.warmup_epochs:g}"
            )

    @staticmethod
    def of(settings: Mapping[str, object], base: Recipe | None = None) -> Recipe:
        """`base` with these fields changed. Raises AmodalError for unknown ones."""
        for name in settings:
            if name not in NAMES:
                raise unknown("field of Recipe", name, NAMES)
        return dataclasses.replace(base or Recipe(), **typing.cast(typing.Any, dict(settings)))

    def written(self) -> dict[str, object]:
        """Its fields as JSON and TOML have them; those that are None are left out."""
        return {name: _plain(value) for name, value in vars(self).items() if value is not None}

    def warmup_of(self, steps: int) -> int:
        """Steps of the warm-up, at least 1, where `steps` are to be made.

        Epochs must be resolved.
        """
        return max(
            1, round(self.warmup * steps) if self.warmup_steps is None else self.warmup_steps
        )

    def scaled(self, lr: float, rows: int) -> float:
        """The learning rate of a batch of `rows`, by `lr_scaling`."""
        if self.lr_scaling == "none":
            return lr
        rule, reference = self.lr_scaling.split("/")
        times = rows / int(reference)
        return lr * (times if rule == "linear" else math.sqrt(times))


NAMES = tuple(f.name for f in dataclasses.fields(Recipe))
HELP = {f.name: f.metadata["help"] for f in dataclasses.fields(Recipe)}
TYPES: dict[str, typing.Any] = typing.get_type_hints(Recipe)

_RANGES: tuple[tuple[str, typing.Callable[[float], bool], str], ...] = (
    *((n, lambda v: v > 0, "a number above 0") for n in ("lr", "epochs")),
    *(
        (n, lambda v: v > 0, "a whole number above 0")
        for n in ("batch_size", "micro_batch_size", "steps", "resolution", "patience")
    ),
    *((n, lambda v: v >= 0, "0 or more") for n in ("weight_decay", "weight_decay_end", "clip")),
    *((n, lambda v: v >= 0, "0 or more") for n in ("warmup_steps", "warmup_epochs")),
    *(
        (n, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        for n in ("momentum", "drop_path", "ema")
    ),
    *(
        (n, lambda v: 0 < v <= 1, "a number above 0, at most 1")
        for n in ("decay_rate", "layer_decay")
    ),
    ("warmup", lambda v: 0 <= v <= 1, "a share of the steps, from 0 to 1"),
)


def _bad(name: str, value: object, expected: str) -> AmodalError:
    shown = value if isinstance(value, str) else _plain(value)
    return AmodalError(f"{name} must be {expected}; it is {shown!r}")


def _typed(name: str, value: object) -> object:
    """The value as the field has it: whole numbers for floats, lists for tuples.

    Raises AmodalError.
    """
    kind = TYPES[name]
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in choices:
        return None
    return _READ[_plain_kind(choices[0])](name, value, choices[0])


def _plain_kind(kind: typing.Any) -> type:
    return typing.get_origin(kind) or kind


def _number(name: str, value: object, _) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise _bad(name, value, "a number")
    return float(value)


def _whole(name: str, value: object, _) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _bad(name, value, "a whole number")
    return int(value)


def _flag(name: str, value: object, _) -> bool:
    if not isinstance(value, bool):
        raise _bad(name, value, "true or false")
    return value


def _text(name: str, value: object, _) -> str:
    if not isinstance(value, str):
        raise _bad(name, value, "a word")
    return value


def _numbers(name: str, value: object, kind: typing.Any) -> tuple[float, ...]:
    size = len(typing.get_args(kind)) if Ellipsis not in typing.get_args(kind) else None
    if not isinstance(value, (tuple, list)) or (size is not None and len(value) != size):
        raise _bad(name, value, "numbers" if size is None else f"{size} numbers")
    return tuple(_number(name, v, None) for v in value)


def _mapping(name: str, value: object, _) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise _bad(name, value, "field or modality -> views")
    named = {str(k): (v,) if isinstance(v, str) else v for k, v in value.items()}
    for views in named.values():
        if (
            not isinstance(views, (tuple, list))
            or not views
            or not all(isinstance(v, str) for v in views)
        ):
            raise _bad(name, value, "field or modality -> names of views")
    return {k: tuple(v) for k, v in named.items()}


_READ: dict[type, typing.Callable[[str, object, typing.Any], object]] = {
    float: _number,
    int: _whole,
    bool: _flag,
    str: _text,
    tuple: _numbers,
    Mapping: _mapping,
}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def renamed(settings: Mapping[str, typing.Any], stacklevel: int = 3) -> dict[str, typing.Any]:
    """The same settings under their names of today. Raises AmodalError for both names of one."""
    current: dict[str, typing.Any] = {}
    for name, value in settings.items():
        today = OLD_NAMES.get(name, name)
        if today in current or (today != name and today in settings):
            raise AmodalError(f"{today} is set twice, also by its old name; leave one out")
        if today != name:
            warnings.warn(
                f"{name} is called {today} now", DeprecationWarning, stacklevel=stacklevel
            )
        current[today] = value
    return current

"""The recipe of a training: optimizer, schedule, batch size, augmentation.

Pages of methods, Python, the command line and RUN/config.toml all use this one dataclass.
"""

from __future__ import annotations

import dataclasses
import functools
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
SCHEDULES = ("cosine", "linear", "constant", "step", "plateau", "wsd")
WSD_DECAY = 0.2
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
    "how": "tuning",
}
"""Option names of the previous release -> current names. They work for one more release."""


def _option(default: object, help: str, metavar: str = "") -> typing.Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    None leaves a choice to the size of the encoder, the method or the data. `HELP` describes the
    fields.

    Raises:
        AmodalError: For a bad value. It names the field, the value and what is expected.
    """

    optimizer: str = _option("adamw", f"{', '.join(OPTIMIZERS)}")
    lr: float | None = _option(
        None, "peak learning rate; by default it follows from the encoder's size"
    )
    lr_scaling: str = _option(
        "none", "linear/256 or sqrt/256: multiply lr by batch size / 256, or by its root"
    )
    weight_decay: float = _option(
        0.05, "weight decay of matrices; biases, norms and tokens never decay"
    )
    weight_decay_end: float | None = _option(None, "weight decay at the end of a cosine schedule")
    betas: tuple[float, float] = _option(
        (0.9, 0.95), "betas of AdamW, LAMB, Lion, and of Muon's AdamW for vectors"
    )
    momentum: float = _option(0.9, "momentum of SGD, LARS and Muon")
    schedule: str = _option("cosine", f"learning rate schedule: {', '.join(SCHEDULES)}")
    warmup: float = _option(0.05, "warm-up of the learning rate, as a share of the steps")
    warmup_steps: int | None = _option(None, "warm-up in steps")
    warmup_epochs: float | None = _option(None, "warm-up in epochs")
    milestones: tuple[float, ...] = _option(
        (0.6, 0.8), "schedule step: shares of the steps at which the learning rate drops"
    )
    decay_rate: float = _option(
        0.1, "schedules step and plateau: factor of the learning rate at each drop"
    )
    decay: float | None = _option(
        None,
        "schedule wsd (warm up, stable, decay): share of the steps at the end in which the "
        "learning rate falls; 0.2 by default",
    )
    patience: int = _option(
        5, "schedule plateau: log entries without a lower loss before the learning rate drops"
    )
    clip: float = _option(1.0, "maximum gradient norm; 0: no clipping")
    drop_path: float = _option(
        0.0, "stochastic depth rate of the last block; it rises linearly over the blocks"
    )
    layer_decay: float = _option(
        1.0, "factor of the learning rate for each layer further from the output"
    )
    lr_multipliers: Mapping[str, float] | None = _option(
        None,
        "times the learning rate of the parameters whose names begin so, such as heads.=2",
        metavar="PREFIX=FACTOR",
    )
    ema: float = _option(
        0.0, "momentum of an exponential moving average of the weights, which is saved; 0: none"
    )
    views: Mapping[str, tuple[str, ...]] | None = _option(
        None,
        "FIELD or MODALITY=VIEW,VIEW, or all=VIEW: augmentations; by default those of the method",
        metavar="FIELD=VIEW,VIEW",
    )
    resolution: int | None = _option(
        None, "side of images in pixels; by default as in dataset.toml"
    )
    batch_size: int | None = _option(None, "rows of an optimizer step, over all processes")
    micro_batch_size: int | None = _option(
        None, "rows of a forward pass; saves memory, with the same gradient"
    )
    precision: str = _option("auto", "auto, float32 or bf16")
    epochs: float | None = _option(None, "passes over the training records; 50 unless steps is set")
    steps: int | None = _option(None, "optimizer steps, instead of epochs")
    gradient_checkpointing: bool = _option(
        False, "recompute activations in the backward pass; saves memory, with the same gradient"
    )
    fsdp: bool = _option(False, "shard the blocks over processes (FSDP2), under torchrun")
    stages: tuple[float, ...] | None = _option(
        None, "ends of the stages of a method, as shares of the steps"
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
                f"give epochs or steps, not both: epochs is {self.epochs:g} "
                f"and steps is {self.steps}"
            )
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise AmodalError(
                "give warmup_steps or warmup_epochs, not both: "
                f"they are {self.warmup_steps} and {self.warmup_epochs:g}"
            )

    @staticmethod
    def of(settings: Mapping[str, object], base: Recipe | None = None) -> Recipe:
        """`base` with some fields changed.

        Raises:
            AmodalError: For unknown fields and bad values.
        """
        for name in settings:
            if name not in NAMES:
                raise unknown("field of Recipe", name, NAMES)
        return dataclasses.replace(base or Recipe(), **typing.cast(typing.Any, dict(settings)))

    def written(self) -> dict[str, object]:
        """The fields in JSON and TOML types, without those that are None."""
        return {name: _plain(value) for name, value in vars(self).items() if value is not None}

    def warmup_of(self, steps: int) -> int:
        """The number of warm-up steps of a stage of `steps`, at least 1.

        `warmup_epochs` must be resolved to `warmup_steps` before.
        """
        return max(
            1, round(self.warmup * steps) if self.warmup_steps is None else self.warmup_steps
        )

    def decay_of(self, steps: int) -> int:
        """The number of steps at the end of `steps` in which the rate of schedule wsd falls."""
        return max(1, round((WSD_DECAY if self.decay is None else self.decay) * steps))

    def scaled(self, lr: float, rows: int) -> float:
        """A learning rate scaled to a batch of `rows`, by `lr_scaling`."""
        if self.lr_scaling == "none":
            return lr
        rule, reference = self.lr_scaling.split("/")
        ratio = rows / int(reference)
        return lr * (ratio if rule == "linear" else math.sqrt(ratio))


NAMES = tuple(f.name for f in dataclasses.fields(Recipe))
HELP = {f.name: f.metadata["help"] for f in dataclasses.fields(Recipe)}
TYPES: dict[str, typing.Any] = typing.get_type_hints(Recipe)

_RANGES: tuple[tuple[str, typing.Callable[[float], bool], str], ...] = (
    ("epochs", lambda v: v > 0, "a number above 0"),
    # a rate of 0 is a pretrained model as it is, made a run
    ("lr", lambda v: v >= 0, "0 or more"),
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
        for n in ("decay_rate", "layer_decay", "decay")
    ),
    ("warmup", lambda v: 0 <= v <= 1, "a share of the steps, from 0 to 1"),
)


def _bad(name: str, value: object, expected: str) -> AmodalError:
    shown = value if isinstance(value, str) else _plain(value)
    return AmodalError(f"{name} must be {expected}; it is {shown!r}")


def _typed(name: str, value: object) -> object:
    """A value in the type of its field, such as a float of a whole number, a tuple of a list.

    Raises:
        AmodalError: If it has another type.
    """
    kind = TYPES[name]
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in choices:
        return None
    return _READ[_plain_kind(choices[0])](name, value, choices[0])


def _plain_kind(kind: typing.Any) -> type:
    origin: type = typing.get_origin(kind) or kind
    return origin


def _number(name: str, value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise _bad(name, value, "a number")
    return float(value)


def _whole(name: str, value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _bad(name, value, "a whole number")
    return int(value)


def _flag(name: str, value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(name, value, "true or false")
    return value


def _text(name: str, value: object, _: object) -> str:
    if not isinstance(value, str):
        raise _bad(name, value, "a word")
    return value


def _numbers(name: str, value: object, kind: typing.Any) -> tuple[float, ...]:
    size = len(typing.get_args(kind)) if Ellipsis not in typing.get_args(kind) else None
    if not isinstance(value, (tuple, list)) or (size is not None and len(value) != size):
        raise _bad(name, value, "numbers" if size is None else f"{size} numbers")
    return tuple(_number(name, v, None) for v in value)


def _mapping(
    name: str, value: object, kind: typing.Any
) -> dict[str, tuple[str, ...]] | dict[str, float]:
    if typing.get_args(kind)[1] is float:
        return _factors(name, value)
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


def _factors(name: str, value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise _bad(name, value, "beginnings of names -> factors of 0 or more")
    factors = {str(k): _number(name, v, None) for k, v in value.items()}
    if not all(factor >= 0 for factor in factors.values()):
        raise _bad(name, value, "beginnings of names -> factors of 0 or more")
    return factors


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
    """Settings under their current names. It warns of old ones.

    Raises:
        AmodalError: If an option is set under both names.
    """
    current: dict[str, typing.Any] = {}
    for name, value in settings.items():
        new = OLD_NAMES.get(name, name)
        if new in current or (new != name and new in settings):
            raise AmodalError(f"{new} is set twice, also by its old name; leave one out")
        if new != name:
            warnings.warn(f"{name} is called {new} now", DeprecationWarning, stacklevel=stacklevel)
        current[new] = value
    return current


P = typing.ParamSpec("P")
R = typing.TypeVar("R")


def accepts_old_names(function: typing.Callable[P, R]) -> typing.Callable[P, R]:
    """Let a function also take keyword arguments under the names of `OLD_NAMES`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **typing.cast(typing.Any, renamed(kwargs)))

    return call

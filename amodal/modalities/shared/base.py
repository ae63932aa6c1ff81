"""What every modality can do.

A modality is a frozen record of what the schema says about one field: sizes, rates, names, means.
It is all that is needed to decode new data the way the training data was decoded, so a model
carries its modalities.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.modalities.shared.corruption import Corruptible

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

Raw = Path | bytes | str | np.ndarray | list | dict | float | int
"""A value as a reader hands it over. A `str` is the text itself for `text`, a path for the kinds
that live in files."""

VIEWS = ("plain", "weak", "strong", "local")
"""plain: as it is, for evaluation · weak: lightly changed · strong: SimCLR's · local: a small part
(DINO's multi-crop)."""
LAYOUTS = ("tokens", "grid", "signal")
RAW_TEXT = ("path", "value", "either")
Schema = dict[str, Any]
"""JSON Schema."""
FILE: Schema = {
    "type": "object",
    "properties": {"base64": {"type": "string", "contentEncoding": "base64", "minLength": 4}},
    "required": ["base64"],
    "additionalProperties": False,
}
"""The bytes of a file in JSON."""


class BadValue(AmodalError):
    """A value that cannot be decoded; the text is the reason, short enough for a table of
    quarantined values."""


@dataclass(frozen=True)
class Attribute:
    """What a value says about its record, to colour a map by.

    Attributes:
        scale: "number" or "classes".
        read: a decoded value -> a number, a class, or None where it is missing.
    """

    scale: str
    read: Callable[[np.ndarray], float | str | None]


class Modality(Corruptible, ABC):
    """One field of the data: how its values are read, changed, tokenised, predicted and shown.

    Everything is a function of its arguments: no state, no global random generator. A subclass is
    a frozen dataclass whose fields have defaults of plain types. The abstract methods are what
    training needs; all the others have a default.
    """

    kind: ClassVar[str]
    """The name of the modality: the class's in lower case, unless the class says another."""
    suffixes: ClassVar[frozenset[str]] = frozenset()
    """File endings that this kind of data is read from, with the dot, lower case."""
    magic: ClassVar[tuple[bytes, ...]] = ()
    """How its files begin, by which bytes without a name are recognised."""
    raw_text: ClassVar[str] = "path"
    """What a raw text is: the "path" of a file, the "value" itself, or "either"."""
    placeholder: ClassVar[str] = ""
    """What a person may type for a value, as an example; "" for values that come in files."""
    accepts: ClassVar[str] = ""
    """Media types and endings of a file input, as HTML has them; `suffixes` unless given."""
    uploads: ClassVar[bool] = True
    """Whether a form sends a value as a file, not as text."""
    layout: ClassVar[str] = "tokens"
    """How its tokens lie: on a "grid" (then it has `size`, `channels`, `tile` and `scale`), as a
    "signal" sampled over time, or as any other "tokens". Says what masks hide together, and what
    data2vec standardises its targets over."""
    is_sequence: ClassVar[bool] = False
    """Whether its tokens have an order that a recurrent mixer may follow."""
    has_time: ClassVar[bool] = False
    """Whether the first position of a token is a time."""
    is_row: ClassVar[bool] = False
    """Whether a value is a row of named cells: it has `columns`, `categories`, `standardised`."""
    takes_prompts: ClassVar[bool] = False
    """Whether a value is language, so that prompts, captions and questions can be written in it."""
    self_explaining: ClassVar[bool] = False
    """Whether the picture of a value says all that `describe` does."""
    backbones: ClassVar[tuple[str, ...]] = ()
    """Libraries of pretrained models that read it."""
    axis_names: ClassVar[Mapping[int, str]] = {0: "part"}
    """Axis of the tokens' positions -> what people call it."""

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        if "kind" not in cls.__dict__:
            cls.kind = cls.__name__.lower()

    @classmethod
    @abstractmethod
    def infer(cls, samples: Sequence[Raw], **overrides) -> Modality:
        """Parameters from up to ~200 raw samples; `overrides` ones win. Samples that cannot be
        decoded are passed over, unless none can: then `BadValue`."""

    @abstractmethod
    def decode(self, raw: Raw) -> np.ndarray:
        """One raw value in canonical form. Raises BadValue."""

    @abstractmethod
    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """Another view of a decoded value, of the same kind: a pure function of `value`, `view`
        and the state of `rng`."""

    @abstractmethod
    def collate(self, values: Any) -> Tensor | Ragged:
        """N >= 0 decoded values as one. Those that are bytes (uint8) and of one shape may come as
        one array of them."""

    @abstractmethod
    def tokenizer(self, width: int) -> nn.Module:
        """A module (column, name, size) -> Tokens of content; where a token is stands in
        `Tokens.position`, for the encoder."""

    @abstractmethod
    def targets(self, values: Any) -> Tensor:
        """(T, ...) what a masked model predicts for each token, in the tokenizer's order."""

    @abstractmethod
    def predictor(self, width: int) -> nn.Module:
        """A module (t, width) -> predictions that `token_loss` understands."""

    @abstractmethod
    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) the loss of each token."""

    @abstractmethod
    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 picture of a decoded value."""

    @abstractmethod
    def describe(self, value: np.ndarray) -> str:
        """One short line about a decoded value."""

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        """What a field holds, in a few words for the report of `init`.

        Args:
            raws: some raw values.
            values: those of them that decode.
        """
        return spanned((len(v) for v in values), "long")

    def card(self, value: np.ndarray) -> dict[str, Any]:
        """What a page shows of a value beside its picture, as JSON: "text", "curves" or "cells"."""
        return {}

    def sound(self, value: np.ndarray) -> tuple[np.ndarray, int] | None:
        """(t,) samples of full scale 1 and their rate in Hz, where a value can be listened to."""
        return None

    def attributes(self) -> dict[str, Attribute]:
        """What a value says about its record, by name."""
        return {}

    def simple_features(self, raws: Sequence[Raw]) -> np.ndarray:
        """(N, F) float32, finite: features that need no training, as the yardstick of those that
        do.

        Raises:
            AmodalError: this modality has none yet.
            BadValue: a value cannot be decoded.
        """
        raise AmodalError(f"{self.kind} has no simple features yet")

    def queries(self, value: Any) -> list[Raw]:
        """The raw values of a part of a query, which may be one value or a list of them. A list of
        numbers is one. Raises AmodalError."""
        whole = isinstance(value, (list, tuple))
        return list(value) if whole and (_all_texts(value) or _all_values(value)) else [value]

    def json_schema(self, limits: Limits) -> Schema:
        """JSON Schema of a value in a request."""
        return FILE

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        """A value from a stranger as one that `decode` may be given: checked for what it would cost
        before anything is decoded. Files are never opened by name.

        Args:
            raw: bytes, or what JSON says.

        Raises:
            TooLarge: it would cost more than `limits` allow.
            BadValue: it is of another kind, or damaged.
        """
        from amodal.modalities.shared.requests import file_of

        return file_of(raw)


class Grid(Protocol):
    """What a modality of layout "grid" has beside the members of `Modality`.

    Attributes:
        size: side of a value in pixels.
        channels: of a value.
        tile: side of a token in pixels.
    """

    size: int
    channels: int

    @property
    def tile(self) -> int: ...

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel."""


@runtime_checkable
class Readable(Protocol):
    """A modality whose values are text to a person."""

    def text(self, value: np.ndarray) -> str:
        """The text of a decoded value."""


@runtime_checkable
class Exports(Protocol):
    """A modality whose trained tokeniser has a dense form, which graphs of other runtimes need."""

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        """See `amodal.modalities.shared.dense`."""


@runtime_checkable
class MakesExamples(Protocol):
    """A modality of which values can be made up, to count what a model costs."""

    @classmethod
    def example(cls, tokens: int, rng: np.random.Generator) -> tuple[Modality, Callable[[], Raw]]:
        """A modality whose values have about so many tokens, and what makes a raw value."""


def _all_texts(values: Sequence) -> bool:
    return all(isinstance(v, (str, bytes, Path)) for v in values)


def _all_values(values: Sequence) -> bool:
    return all(hasattr(v, "shape") or isinstance(v, dict) for v in values)


M = TypeVar("M", bound=Modality)


def build(cls: type[M], parameters: Mapping[str, Any]) -> M:
    """`cls` with these parameters, as read from TOML or JSON. Raises AmodalError for unknown names
    and wrong types."""
    kind, defaults = cls.kind, cls()
    known = {f.name: f.type for f in fields(cls)}
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {kind}", name, known)
    return cls(
        **{
            n: _typed(f"{kind}.{n}", v, getattr(defaults, n), known[n])
            for n, v in parameters.items()
        }
    )


LARGEST = 2**31
"""No size, rate or count of a modality is larger; the smaller limits of each are in its page."""


def _typed(name: str, value: Any, default: Any, declared: str) -> Any:
    """`value` in the type of the parameter's default: lists become tuples, whole numbers may stand
    for floats. declared: the annotation, which says what is in a tuple. Numbers are finite and none
    is huge: they may come from a file that anybody wrote."""
    wanted = type(default)
    if wanted is tuple and isinstance(value, (list, tuple)):
        each = {"tuple[str": "", "tuple[int": 0, "tuple[float": 0.0}.get(declared.partition(",")[0])
        return tuple(
            value if each is None else (_typed(f"each of {name}", v, each, "") for v in value)
        )
    if wanted is dict and isinstance(value, Mapping):
        return {str(k): _typed(f"{name}.{k}", v, (), "tuple[str, ...]") for k, v in value.items()}
    if wanted is str and isinstance(value, (str, os.PathLike)) and "\0" not in os.fspath(value):
        return os.fspath(value)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if number and not (
        abs(value) <= LARGEST if wanted is int else abs(value) <= float(np.finfo(np.float32).max)
    ):
        raise AmodalError(
            f"{name} must be a finite number of reasonable size, got {shortened(repr(value))}"
        )
    if wanted is float and number or wanted is int and number and int(value) == value:
        return wanted(value)
    if wanted is bool and isinstance(value, bool):
        return value
    word = {
        tuple: "a list",
        dict: "a table",
        str: "text",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
    }
    raise AmodalError(f"{name} must be {word[wanted]}, got {shortened(repr(value))}")


def at_most(kind: str, limits: Mapping[str, tuple[float, float]]) -> None:
    """limits: parameter -> (its value, the most that it can be). Raises AmodalError for one that
    would only fill the memory."""
    for name, (value, most) in limits.items():
        if value > most:
            raise AmodalError(f"{kind}.{name} is at most {most:,}, got {value:,}")


def check_view(view: str) -> None:
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)


def decodable(modality: Modality, samples: Sequence[Raw]) -> list[np.ndarray]:
    """The samples that decode. Raises the first BadValue if none does."""
    values, first = [], BadValue("no samples to look at")
    for raw in samples:
        try:
            values.append(modality.decode(raw))
        except BadValue as error:
            first = error if not values else first
    if not values:
        raise first
    return values


def shortened(text: str, length: int = 72) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def listed(parts: Iterable[str], length: int = 72) -> str:
    """As many of `parts` as a line takes."""
    return shortened(", ".join(parts), length)


def spanned(numbers: Iterable[float], unit: str, form: str = ",") -> str:
    """`3 … 40 steps`: the least and the largest of the numbers."""
    numbers = list(numbers)
    if not numbers:
        return ""
    low, high = format(min(numbers), form), format(max(numbers), form)
    return f"{low} {unit}" if low == high else f"{low} … {high} {unit}"


def first_of(names: Sequence[str], most: int = 4) -> str:
    """The first few names of a list."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def from_json(value: Any) -> Any:
    """A text that begins like JSON as what it says, anything else as it is. Raises AmodalError."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise AmodalError(f"{value[:60]!r} is not JSON: {error}") from None

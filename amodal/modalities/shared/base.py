"""The interface of a modality.

A modality is a frozen record of what the schema says about one field: sizes, rates, names, means.
A model carries its modalities, so that new data is decoded as the training data was.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.modalities.shared.corruption import Corruptible
from amodal.modalities.shared.finite import BadValue as BadValue
from amodal.modalities.shared.finite import Finite
from amodal.modalities.shared.formatting import first_names as first_names
from amodal.modalities.shared.formatting import format_range as format_range
from amodal.modalities.shared.formatting import listed as listed
from amodal.modalities.shared.formatting import shortened as shortened
from amodal.modalities.shared.parameters import at_most as at_most
from amodal.modalities.shared.parameters import build as build
from amodal.modalities.shared.remarks import Remarks
from amodal.modalities.shared.samples import read_each as read_each
from amodal.modalities.shared.views import VARIANTS as VARIANTS
from amodal.modalities.shared.views import VIEWS as VIEWS
from amodal.modalities.shared.views import check_view as check_view

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

Raw = Path | bytes | str | np.ndarray | list[Any] | dict[str, Any] | float | int
"""A value as a reader hands it over. A `str` is the text itself for `text`, for others a path."""

SimpleFeatures = Callable[[Sequence[Raw]], npt.NDArray[np.float32]]
"""n raw values -> (n, F)."""


@runtime_checkable
class FittedFeatures(Protocol):
    """Simple features that can be stored, see `Modality.restored_simple_features`."""

    @property
    def state(self) -> dict[str, Any]:
        """What was fitted: names -> arrays, numbers, and estimators of scikit-learn."""
        ...

    def __call__(self, raws: Sequence[Raw], /) -> npt.NDArray[np.float32]: ...


LAYOUTS = ("tokens", "grid", "signal", "space")
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


@runtime_checkable
class DecodedValues(Protocol):
    """A sequence of raw values that are decoded already, or need not be decoded twice."""

    def decoded(self, modality: Modality) -> list[np.ndarray]:
        """What `modality.decode_finite` makes of each."""
        ...

    def take(self, indices: Sequence[int]) -> Sequence[Raw]:
        """The values at `indices`."""
        ...


class NoSimpleFeatures(AmodalError):
    """A modality has no features without a network; then it has no yardstick."""


@dataclass(frozen=True)
class Attribute:
    """A property of a value that a map can be coloured by, or clusters described.

    Attributes:
        scale: "number", "classes", or "words" for a text that is described by its words.
        read: a decoded value -> a number, a class, a text, or None where it is missing.
    """

    scale: str
    read: Callable[[np.ndarray], float | str | None]


class Modality(Corruptible, Finite, Remarks, ABC):
    """One field of the data: how its values are decoded, augmented, tokenised, predicted and shown.

    Everything is a function of its arguments: no state, no global random generator. A subclass is
    a frozen dataclass whose fields have defaults of plain types. The abstract methods are what
    training needs; all the others have a default.
    """

    kind: ClassVar[str]
    """The name of the modality: the class's in lower case, unless the class says another."""
    suffixes: ClassVar[frozenset[str]] = frozenset()
    """File endings that this kind of data is read from, with the dot, lower case."""
    folder_suffixes: ClassVar[frozenset[str]] = frozenset()
    """Those of `suffixes` of which all files in one folder are one value."""
    at_once: ClassVar[int] = 0
    """Decoded values that are held at a time, where each is large; 0 for as many as come."""
    magic: ClassVar[tuple[bytes, ...]] = ()
    """How its files begin."""
    raw_text: ClassVar[str] = "path"
    """What a raw text is: the "path" of a file, the "value" itself, or "either"."""
    placeholder: ClassVar[str] = ""
    """What a person may type for a value, as an example; "" for values that come in files."""
    accepts: ClassVar[str] = ""
    """Media types and endings of a file input, as HTML has them; `suffixes` unless given."""
    uploads: ClassVar[bool] = True
    """Whether a form sends a file, not text."""
    layout: ClassVar[str] = "tokens"
    """How its tokens lie: on a "grid" (then it has `size`, `channels`, `tile` and `scale`), as a
    "signal" over time, in "space", or as other "tokens". Says what masks hide together."""
    is_sequence: ClassVar[bool] = False
    """Whether its tokens have an order that a recurrent mixer may follow."""
    has_time: ClassVar[bool] = False
    """Whether the first position is a time."""
    is_row: ClassVar[bool] = False
    """Whether a value is a row of named cells: it has `columns`, `categories`, `standardised`."""
    takes_prompts: ClassVar[bool] = False
    """Whether a value is language, so that prompts, captions and questions can be written in it."""
    self_explaining: ClassVar[bool] = False
    """Whether the picture of a value says all that `describe` does."""
    backbones: ClassVar[tuple[str, ...]] = ()
    """Libraries of pretrained models that read it."""
    packaged: ClassVar[tuple[str, ...]] = ()
    """Names of `amodal.data.packaged_models` that read it, the one to take first first."""
    simple_name: ClassVar[str] = "simple features"
    """What people call its `simple_features`."""
    simple_by_column: ClassVar[bool] = True
    """Whether columns of `simple_groups` are divided by their own deviations, or by the group's."""
    example_tokens: ClassVar[int] = 0
    """Tokens of its made-up values where `plan` is not asked for others; 0: it counts without."""
    axis_names: ClassVar[Mapping[int, str]] = {0: "part"}
    """Axis of the tokens' positions -> what people call it."""
    views: ClassVar[tuple[str, ...]] = VIEWS
    """What `augment` makes: `VIEWS`, and any of its own."""

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        if "kind" not in cls.__dict__:
            cls.kind = cls.__name__.lower()

    @classmethod
    @abstractmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Modality:
        """Estimate parameters from samples. Samples that cannot be decoded are skipped.

        Args:
            samples: up to ~200 raw values.
            overrides: parameters that are not estimated.

        Raises:
            BadValue: no sample can be decoded.
        """

    @classmethod
    def restore(cls, parameters: Mapping[str, Any]) -> Modality:
        """The modality that a run stored, of before a parameter existed as it was trained.

        Args:
            parameters: as `amodal.modalities.config` gives them, without the name.

        Raises:
            AmodalError: an unknown name, or a wrong type.
        """
        return build(cls, parameters)

    @abstractmethod
    def decode(self, raw: Raw) -> np.ndarray:
        """One raw value in canonical form.

        Raises:
            BadValue: it cannot be decoded.
        """

    @abstractmethod
    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """An augmented view of a decoded value, of the same kind.

        A pure function of `value`, `view` and the state of `rng`.

        Args:
            value: decoded.
            view: one of `views`.
            rng: the only source of randomness.
        """

    @abstractmethod
    def collate(self, values: Any) -> Tensor | Ragged:
        """N >= 0 decoded values as a batch.

        Bytes (uint8) of one shape may come as one array.
        """

    @classmethod
    def recognises(cls, file: Path | bytes) -> bool:
        """Whether a file is of this kind by its header, where its ending is that of others too."""
        return False

    @property
    def ground_step(self) -> float:
        """Metres on the ground from a token to its neighbour, of a "grid"; 0 where not known."""
        return 0.0

    @property
    def suits_small_networks(self) -> bool:
        """Whether a small network from scratch is a default for its values on small data."""
        return True

    @property
    def token_groups(self) -> tuple[str, ...]:
        """Names of the groups that its tokens are of, such as bands of a sensor; () for one. Each
        token then has the attribute `amodal.core.tokens.GROUP`."""
        return ()

    def for_module(self, values: Tensor | Ragged) -> Tensor | Ragged:
        """Collated values as a module of the user's own takes them: without marks of what is
        missing within a value, by default as they are."""
        return values

    @abstractmethod
    def tokenizer(self, width: int) -> nn.Module:
        """A module (column, name, size) -> Tokens, without positional embeddings.

        The encoder adds those from `Tokens.position`.

        Args:
            width: D of the tokens.
        """

    @abstractmethod
    def targets(self, values: Any) -> Tensor:
        """(T, ...) the targets of a masked model, in the tokenizer's order."""

    @abstractmethod
    def predictor(self, width: int) -> nn.Module:
        """A module (t, width) -> predictions for `token_loss`."""

    @abstractmethod
    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) the loss of each token."""

    def target_kinds(self, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Targets whose losses are not alike, apart: (t,) bool, which tokens have any, and they."""
        return [(target.new_ones(len(target)).bool(), target)]

    @abstractmethod
    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 picture of a decoded value."""

    @abstractmethod
    def describe(self, value: np.ndarray) -> str:
        """One short line about a decoded value."""

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        """The content of a field in a few words, for the report of `init`.

        Args:
            raws: some raw values.
            values: those of them that decode.
        """
        return format_range((len(v) for v in values), "long")

    def card(self, value: np.ndarray) -> dict[str, Any]:
        """What a page shows of a value beside its picture, as JSON: "text", "curves" or "cells"."""
        return {}

    def sound(self, value: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Samples (t,) of full scale 1 and their rate in Hz, if a value can be played."""
        return None

    def attributes(self) -> dict[str, Attribute]:
        """Properties of a value, by name."""
        return {}

    def known_view(self, view: str) -> str:
        """The view that `augment` is to make where a method asks for `view`."""
        return view if view in self.views else VARIANTS.get(view, view)

    def decode_all(self, raws: Sequence[Raw]) -> list[np.ndarray]:
        """Decode raw values, unless `raws` are `DecodedValues`.

        Raises:
            BadValue: a value cannot be decoded.
        """
        if isinstance(raws, DecodedValues):
            return raws.decoded(self)
        return [self.decode_finite(raw) for raw in raws]

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """Features without a network, the yardstick of learned ones.

        Args:
            train: raw values of training records, for means, vocabularies and the like.

        Returns:
            Raw values -> (n, F) float32, finite, on a scale on which cosines make sense. It raises
            BadValue where a value cannot be decoded.

        Raises:
            NoSimpleFeatures: this modality has none, or there is no value to fit them on.
            BadValue: a value cannot be decoded.
        """
        from amodal.modalities.shared.simple import fitted

        return fitted(self.simple_groups, train, by_column=self.simple_by_column)

    def restored_simple_features(self, state: Mapping[str, Any]) -> FittedFeatures:
        """Simple features as they were fitted once, of which `state` was stored."""
        from amodal.modalities.shared.simple import Scaled

        return Scaled(self.simple_groups, **state)

    def simple_groups(self, raws: Sequence[Raw]) -> list[npt.NDArray[np.float64]]:
        """Groups of columns, each (n, F) of n >= 1 values, not yet of one scale.

        Raises NoSimpleFeatures where there are none, BadValue where a value cannot be decoded.
        """
        raise NoSimpleFeatures(f"{self.kind} has no simple features yet")

    def queries(self, value: Any) -> list[Raw]:
        """The raw values of a part of a query, which may be one value or a list of them.

        A list of numbers is one value.

        Raises:
            AmodalError: it is not valid JSON.
        """
        whole = isinstance(value, (list, tuple))
        return list(value) if whole and (_all_texts(value) or _all_values(value)) else [value]

    def json_schema(self, limits: Limits) -> Schema:
        """JSON Schema of a value in a request."""
        return FILE

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        """Check an untrusted value for its cost before it is decoded. No file is opened by name.

        Args:
            raw: bytes, or parsed JSON.
            limits: of the cost.

        Returns:
            A value for `decode`.

        Raises:
            TooLarge: it would cost more than `limits` allow.
            BadValue: it is of another kind, or damaged.
        """
        from amodal.modalities.shared.requests import file_of

        return file_of(raw)


def _all_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (str, bytes, Path)) for v in values)


def _all_values(values: Sequence[Any]) -> bool:
    return all(hasattr(v, "shape") or isinstance(v, dict) for v in values)


def decodable(modality: Modality, samples: Sequence[Raw]) -> list[np.ndarray]:
    """The samples that decode, decoded.

    Raises:
        BadValue: none does; it is that of the first.
    """
    return read_each(samples, modality.decode_finite)


def from_json(value: Any) -> Any:
    """A text that begins like JSON, parsed; anything else as it is.

    Raises:
        AmodalError: it is not valid JSON.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise AmodalError(f"{value[:60]!r} is not JSON: {error}") from None

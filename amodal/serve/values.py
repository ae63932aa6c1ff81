"""Values from clients: checked by their modality before it decodes them. Those that are refused
become HTTP errors."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from amodal.core import AmodalError
from amodal.modalities import BadValue, Modality, Raw, name_of
from amodal.modalities.shared import requests
from amodal.modalities.shared.base import shortened
from amodal.serve.limits import Limits, Refused

log = logging.getLogger("amodal.serve")


def parse_json(data: bytes, limits: Limits) -> Any:
    """Parse strict JSON: no NaN, no name twice. Raises Refused."""
    try:
        return requests.parsed(data, limits)
    except BadValue as error:
        raise Refused(_status(error), str(error)) from None


def read_value(modality: Modality, name: str, raw: Any, limits: Limits) -> tuple[Raw, np.ndarray]:
    """Decode a value of the field `name` into its modality's canonical form.

    Args:
        modality: Of the field.
        name: Of the field, for errors.
        raw: Uploaded bytes, or a JSON value; bytes in JSON are {"base64": "..."}.
        limits: What a value may cost.

    Returns:
        The value as its modality's `bounds` gave it, and decoded.

    Raises:
        Refused: If it cannot be read, or would cost more than `limits` allow.
    """
    kind = name_of(modality)
    try:
        bounded = modality.bounds(_unwrapped(raw), limits)
        return bounded, modality.decode_finite(bounded)
    except AmodalError as error:
        example = f"; it is such as {modality.placeholder}" if _is_json(error) else ""
        text = f"{shortened(name)} ({kind}): {error}{example if modality.placeholder else ''}"
        raise Refused(_status(error), text) from None
    except Exception as error:  # decoders raise whatever damaged data make them stumble over first
        log.warning("a value of the kind %s was not decodable: %r", kind, error)
        reason = f"damaged ({type(error).__name__})"
        raise Refused(422, f"{shortened(name)} ({kind}): {reason}") from None


class ReadValues(Sequence[Raw]):
    """Values that are decoded already, see `amodal.modalities.DecodedValues`.

    Args:
        values: Each as `read_value` gave it.
    """

    def __init__(self, values: Sequence[tuple[Raw, np.ndarray]]):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> ReadValues: ...
    def __getitem__(self, index: int | slice) -> Raw | ReadValues:
        if isinstance(index, slice):
            return ReadValues(self.values[index])
        return self.values[index][0]

    def take(self, indices: Sequence[int]) -> ReadValues:
        """The values at `indices`."""
        return ReadValues([self.values[i] for i in indices])

    def decoded(self, modality: Modality) -> list[np.ndarray]:
        """What the modality of their field made of each."""
        return [value for _, value in self.values]


def _is_json(error: AmodalError) -> bool:
    return isinstance(error, requests.NotJson) or str(error).startswith("not JSON")


def _status(error: AmodalError) -> int:
    if isinstance(error, requests.TooLarge):
        return 413
    return 400 if isinstance(error, requests.NotJson) else 422


def _unwrapped(raw: Any) -> Any:
    if isinstance(raw, dict) and raw.keys() == {"base64"} and isinstance(raw["base64"], str):
        try:
            return base64.b64decode(raw["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise BadValue("what stands under base64 is not base64") from None
    return raw

"""Values from clients: checked by their modality before it decodes them. Those that are refused
become HTTP errors."""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.modalities import BadValue, Modality, name_of
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


def decode_value(modality: Modality, name: str, raw: Any, limits: Limits) -> np.ndarray:
    """Decode a value of the field `name` into its modality's canonical form.

    Args:
        modality: Of the field.
        name: Of the field, for errors.
        raw: Uploaded bytes, or a JSON value; bytes in JSON are {"base64": "..."}.
        limits: What a value may cost.

    Raises:
        Refused: If it cannot be read, or would cost more than `limits` allow.
    """
    kind = name_of(modality)
    try:
        return modality.decode(modality.bounds(_unwrapped(raw), limits))
    except AmodalError as error:
        raise Refused(_status(error), f"{shortened(name)} ({kind}): {error}") from None
    except Exception as error:  # decoders raise whatever damaged data make them stumble over first
        log.warning("a value of the kind %s was not decodable: %r", kind, error)
        reason = f"damaged ({type(error).__name__})"
        raise Refused(422, f"{shortened(name)} ({kind}): {reason}") from None


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

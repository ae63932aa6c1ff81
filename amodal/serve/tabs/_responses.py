"""Responses that tabs share."""

from __future__ import annotations

import numpy as np
from fastapi import Response

from amodal.serve.limits import Refused


def not_ready() -> Response:
    """202: it is being computed, ask later."""
    return Response('{"status":"computing"}', 202, media_type="application/json")


def plain(value: object) -> object:
    """The value for JSON: None for NaN and infinities."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def checked_number(number: int, records: int) -> int:
    """The number of a record. Raises Refused for one that is none."""
    if not 0 <= number < records:
        raise Refused(404, f"there is no record {number}")
    return number

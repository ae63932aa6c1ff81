"""What the routes of several tabs answer with."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import Response

from amodal.serve.limits import Refused


def wait() -> Response:
    """Not there yet: ask again."""
    return Response('{"status":"computing"}', 202, media_type="application/json")


def plain(value) -> Any:
    """None for numbers that are none."""
    return None if value is None or isinstance(value, float) and not np.isfinite(value) else value


def there(number: int, records: int) -> int:
    """The number of a record. Raises Refused for one that is none."""
    if not 0 <= number < records:
        raise Refused(404, f"there is no record {number}")
    return number

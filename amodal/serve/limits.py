"""What one request may cost, and the error for one that would cost more."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastapi import HTTPException

from amodal.core import AmodalError
from amodal.modalities.shared.base import shortened
from amodal.modalities.shared.requests import MIB
from amodal.modalities.shared.requests import Limits as ValueLimits


@dataclass(frozen=True)
class Limits(ValueLimits):
    """Limits of a server, beside those of values.

    Args:
        upload: Bytes of a request's body.
        records: Records in one request.
        results: Records that a search or a list may ask for.
        concurrent: Requests that are worked on or wait; more get status 429.
        seconds: From the first byte of a request to the last of its response.
        readers: Threads that decode.
    """

    upload: int = 32 * MIB
    records: int = 64
    results: int = 1_000
    concurrent: int = 128
    seconds: float = 30.0
    readers: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise AmodalError(
                    f"the limit {field.name} must be above 0, not {getattr(self, field.name)}"
                )


class Refused(HTTPException):
    """A request that is not carried out: an HTTP status and a sentence for a person."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None):
        super().__init__(status, shortened(text, 500), headers)

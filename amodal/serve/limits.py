"""What one request may cost, and the answer to one that would cost more."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastapi import HTTPException

from amodal.core import AmodalError
from amodal.modalities.shared.base import shortened

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """upload: bytes of a request's body; json: bytes of JSON or of a table of text, which take far more room once they are read;
    entries: numbers, texts and brackets in JSON; pixels: of a picture, by its header, before anything is decoded; sound: seconds of a
    recording, by its header; characters: of a text; records: in one request; results: that a search or a list may ask for;
    concurrent: requests at work or waiting, more are told to come back; seconds: that a request may take from its first byte to its
    last; readers: threads that decode.
    """

    upload: int = 32 * MIB
    json: int = 4 * MIB
    entries: int = 1_000_000
    pixels: int = 50_000_000
    sound: float = 120.0
    characters: int = 200_000
    records: int = 64
    results: int = 1_000
    concurrent: int = 128
    seconds: float = 30.0
    readers: int = 2

    def __post_init__(self):
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise AmodalError(f"the limit {field.name} must be above 0, not {getattr(self, field.name)}")


class Refused(HTTPException):
    """The answer to a request that is not carried out: a status of HTTP and a sentence for a person."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None):
        super().__init__(status, shortened(text, 500), headers)

"""Samples of a SoundFont (SF2, and SF3 whose samples are Ogg Vorbis), and the presets they are for.

"SoundFont Technical Specification", version 2.04, E-mu 2006, sections 7.2 to 7.10: presets have
zones that name instruments, instruments have zones that name samples.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from amodal.core import AmodalError

Row = tuple[Any, ...]
INSTRUMENT, SAMPLE = 41, 53
"""Generators that end a zone, by what they name."""
ROWS = {
    "phdr": "<20sHHHIII",
    "pbag": "<HH",
    "pgen": "<Hh",
    "inst": "<20sH",
    "ibag": "<HH",
    "igen": "<Hh",
    "shdr": "<20sIIIIIBbHH",
}
"""Table -> the form of a row."""
COMPRESSED = 0x10
DRUMS = 128
"""The bank of drums in General MIDI."""
FAMILIES = (
    *("piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass"),
    *(
        "reed",
        "pipe",
        "synth lead",
        "synth pad",
        "synth effects",
        "ethnic",
        "percussive",
        "effects",
    ),
)
"""Of General MIDI, eight programs each."""


class Sample(NamedTuple):
    """A recording of a SoundFont.

    Attributes:
        name: As the SoundFont has it.
        preset: The first one that it is for, by bank and program.
        family: Of that preset, "drums" for bank 128.
        ogg: The content of an Ogg Vorbis file.
    """

    name: str
    preset: str
    family: str
    ogg: bytes


def samples(content: bytes) -> Iterator[Sample]:
    """The samples of an SF3 file that some preset is for, in their order.

    Raises:
        AmodalError: It is no SoundFont, or its samples are not compressed.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise AmodalError("expected a SoundFont, a RIFF file of kind sfbk")
    start, end = content.index(b"smpl"), content.index(b"pdta")
    waves, tables = content[start + 8 : end], dict(_chunks(content[end + 4 :]))
    rows = {
        name: [struct.unpack_from(form, tables[name], i) for i in _starts(tables[name], form)]
        for name, form in ROWS.items()
    }
    preset_of = _presets(rows)
    for number, header in enumerate(rows["shdr"][:-1]):  # the last one ends the list
        if number not in preset_of:
            continue
        name, first, last, kind = header[0], header[1], header[2], header[9]
        if not kind & COMPRESSED:
            raise AmodalError("expected a SoundFont of compressed samples (.sf3)")
        bank, program, preset = preset_of[number]
        family = "drums" if bank == DRUMS else FAMILIES[program // 8]
        yield Sample(_text(name), preset, family, waves[first:last])


def _presets(rows: dict[str, list[Row]]) -> dict[int, tuple[int, int, str]]:
    """Sample -> (bank, program, name) of the first preset that it is for."""
    found: dict[int, tuple[int, int, str]] = {}
    for preset, after in zip(rows["phdr"], rows["phdr"][1:]):
        name, program, bank = preset[:3]
        for instrument in _named(rows, "p", preset[3], after[3], INSTRUMENT):
            first, last = rows["inst"][instrument][1], rows["inst"][instrument + 1][1]
            for sample in _named(rows, "i", first, last, SAMPLE):
                here = (bank, program, _text(name))
                found[sample] = min(here, found.get(sample, here))
    return found


def _named(rows: dict[str, list[Row]], of: str, first: int, last: int, what: int) -> Iterator[int]:
    """What zones name; a zone without a name changes all others of its kind."""
    bags, generators = rows[f"{of}bag"], rows[f"{of}gen"]
    for zone in range(first, last):
        values: dict[int, int] = dict(generators[slice(bags[zone][0], bags[zone + 1][0])])
        if what in values:
            yield values[what]


def _chunks(content: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the chunks of a RIFF list."""
    at = 0
    while at + 8 <= len(content):
        name, size = content[at : at + 4].decode("ascii"), struct.unpack_from("<I", content, at + 4)
        yield name, content[at + 8 : at + 8 + size[0]]
        at += 8 + size[0] + size[0] % 2


def _starts(table: bytes, form: str) -> range:
    size = struct.calcsize(form)
    return range(0, len(table) - size + 1, size)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("latin-1").strip()

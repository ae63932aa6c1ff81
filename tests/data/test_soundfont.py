"""Samples of a SoundFont by the preset that they are for, and the set that is made of one."""

import io
import struct

import numpy as np
import pytest
import soundfile

from amodal.core import AmodalError
from amodal.data.sets.shared import soundfont

NAMES = ("bang", "unused", "flute low", "flute high")


def chunk(name: str, content: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def table(form: str, *rows: tuple) -> bytes:
    return b"".join(struct.pack(form, *row) for row in rows)


def made(kind: int = soundfont.COMPRESSED | 1) -> tuple[bytes, list[bytes]]:
    """A SoundFont with a flute of two samples, behind a zone that names none, and a drum."""
    files = []
    for pitch in (1, 2, 3, 4):
        file = io.BytesIO()
        wave = np.sin(np.arange(4000) * pitch / 20).astype(np.float32) / 2
        soundfile.write(file, wave, 8000, format="OGG")
        files.append(file.getvalue())
    ends = np.cumsum([0, *map(len, files)])
    headers = [
        (name.encode(), int(ends[i]), int(ends[i + 1]), 0, 0, 8000, 60, 0, 0, kind)
        for i, name in enumerate(NAMES)
    ]
    of = soundfont.ROWS
    tables = {
        # presets: the drum kit comes first in the file, and the flute is program 73
        "phdr": table(
            of["phdr"],
            (b"Kit", 0, 128, 0, 0, 0, 0),
            (b"Flute", 73, 0, 1, 0, 0, 0),
            (b"EOP", 0, 0, 2, 0, 0, 0),
        ),
        "pbag": table(of["pbag"], (0, 0), (1, 0), (2, 0)),
        "pgen": table(of["pgen"], (soundfont.INSTRUMENT, 1), (soundfont.INSTRUMENT, 0), (0, 0)),
        "inst": table(of["inst"], (b"Flute", 0), (b"Drum", 3), (b"EOI", 4)),
        "ibag": table(of["ibag"], (0, 0), (1, 0), (3, 0), (4, 0), (5, 0)),
        "igen": table(
            of["igen"],
            (48, 10),
            (43, 7),
            (soundfont.SAMPLE, 2),
            (soundfont.SAMPLE, 3),
            (soundfont.SAMPLE, 0),
            (0, 0),
        ),
        "shdr": table(of["shdr"], *headers, (b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    }
    pdta = b"pdta" + b"".join(chunk(name, content) for name, content in tables.items())
    body = b"sfbk" + chunk("LIST", b"sdta" + chunk("smpl", b"".join(files))) + chunk("LIST", pdta)
    return b"RIFF" + struct.pack("<I", len(body)) + body, files


def test_samples_have_the_family_of_their_preset():
    content, files = made()
    found = list(soundfont.samples(content))
    assert [(s.name, s.preset, s.family) for s in found] == [
        ("bang", "Kit", "drums"),
        ("flute low", "Flute", "pipe"),
        ("flute high", "Flute", "pipe"),
    ]
    assert [s.ogg for s in found] == [files[0], files[2], files[3]]


def test_other_files_are_refused():
    with pytest.raises(AmodalError, match="expected a SoundFont, a RIFF file"):
        next(soundfont.samples(b"OggS" + b"\0" * 40))
    with pytest.raises(AmodalError, match="compressed samples"):
        next(soundfont.samples(made(kind=1)[0]))

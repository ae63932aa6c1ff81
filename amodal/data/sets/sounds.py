"""Sounds: notes of General MIDI's instruments, and telephone prompts in Italian and Russian.

Short recordings that anybody may use and pass on. Notes are the samples of the SoundFont FluidR3
Mono (MIT), as recorded and not played: one sound a record, its instrument (the first preset that
it is for) and its family, one of General MIDI's 16 or drums. Prompts are those of the telephone
exchange Asterisk (CC BY 3.0), one reader a language, at 8,000 samples a second: sentences, digits,
letters. Label `kind` says which; `family` and `instrument` are of notes, `language` of prompts.
`group` is the instrument of a note, or what a prompt says, whatever the language: no group is in
two parts. Left out: sounds shorter than a twentieth of a second, silence, and three more languages
of the same source, which are CC BY-SA.
"""

import io
from pathlib import Path
from typing import Any

from amodal.data.fetch import Debian
from amodal.data.sets.shared import soundfont as _soundfont
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Debian(
        "fluidr3mono-gm-soundfont",
        "2.315-7",
        "4098301bf29f4253c2f5799a844f42dd4aa733d91a210071ad16d7757dea51d6",
        18.7,
    ),
    Debian(
        "asterisk-core-sounds-it-wav",
        "1.6.1-1",
        "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
        18.3,
    ),
    Debian(
        "asterisk-core-sounds-ru-wav",
        "1.6.1-1",
        "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
        18.8,
    ),
)
LICENCE = (
    "MIT (notes: Frank Wen, Michael Cowgill and others), CC BY 3.0 (Italian prompts: Carlo Flora; "
    "Russian: Maxim Topal)"
)
RECORDS = 2156
LANGUAGES = ("it", "ru")
SHORTEST = 0.05
"""Seconds."""
RATE = 8000
"""Of the prompts; a higher one would say which kind a sound is."""


def write(out: Path, archives: list[Path]) -> None:
    (out / "sounds").mkdir()
    columns: dict[str, list[Any]] = {
        name: [] for name in ("key", "audio", "kind", "family", "instrument", "language", "group")
    }

    def add(key: str, ending: str, content: bytes, *labels: str | None) -> None:
        if _seconds(content) < SHORTEST:
            return
        path = f"sounds/{key}.{ending}"
        (out / path).write_bytes(content)
        for column, cell in zip(columns.values(), (key, path, *labels)):
            column.append(cell)

    font = next(content for path, content in deb(archives[0]) if path.endswith(".sf3"))
    for number, note in enumerate(_soundfont.samples(font)):
        key = f"note-{number:04d}"
        add(key, "ogg", note.ogg, "note", note.family, note.preset, None, note.preset)
    for language, archive in zip(LANGUAGES, archives[1:]):
        for path, content in sorted(deb(archive, "usr/share/asterisk/sounds/")):
            # usr/share/asterisk/sounds/it_IT_m_Carlo/digits/7.wav
            prompt = "-".join(Path(path).with_suffix("").parts[5:])
            if path.endswith(".wav") and not prompt.startswith("silence"):
                add(f"{language}-{prompt}", "wav", content, "speech", None, None, language, prompt)
    records(out, columns)
    describe(
        out,
        {"audio": field("audio", rate=RATE, max_seconds=4.0)},
        dict.fromkeys(("kind", "family", "instrument", "language", "group"), "category"),
        title="Notes of instruments, and telephone prompts in two languages",
        licence=LICENCE,
        split_by="group",
    )


def _seconds(content: bytes) -> float:
    import soundfile

    return float(soundfile.info(io.BytesIO(content)).duration)

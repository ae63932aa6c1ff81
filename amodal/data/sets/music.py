"""Music: the notes of about 600 pieces, from Trecento songs to Beethoven's quartets, as events in
time.

Scores of music21's corpus, as written (no performance, repeats not played). An event is a note:
when it begins (in quarter notes), its pitch class, octave, duration, and part from the top (0).
Tied notes are one, grace notes are left out, long pieces end after 512 notes. Labels: collection
(composer or repertory; those with fewer than five pieces are "other"), metre, number of parts.
Bach's chorales are 250 and Palestrina's movements 150, by chance, of more; scores in other formats
(fiddle tunes, folk songs in ABC) are left out. A split by piece: movements of one work may be in
different parts.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from amodal.data.fetch import Pypi
from amodal.data.schema import Label
from amodal.data.sets.shared import scores as _scores
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "music21",
        "10.5.1",
        "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
        20.1,
    ),
)
LICENCE = (
    "works out of copyright; encodings free to use, some not commercially; package: BSD-3-Clause"
)
RECORDS = 626
CORPUS = "music21/corpus/"
MOST = {"bach": 250, "palestrina": 150}
LONGEST, RARE = 512, 5
NOT_MUSIC = ("demos", "theoryExercises", "leadSheet")
CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def write(out: Path, archives: list[Path]) -> None:
    from amodal.progress import Bar

    package = wheel(archives[0])
    columns: dict[str, list[Any]] = {
        name: [] for name in ("key", "notes", "collection", "metre", "parts")
    }
    chosen = _chosen(package.namelist())
    with Bar("music", len(chosen)) as bar:
        for path in chosen:
            bar.step("scores")
            content = package.read(path)
            try:
                notes, metre = (
                    _scores.kern(content) if path.endswith(".krn") else _scores.musicxml(content)
                )
            except _scores.Unread:
                continue
            if len(notes) < 8:
                continue
            columns["key"].append(re.sub(r"\W+", "-", path.removeprefix(CORPUS)))
            columns["notes"].append([_event(note) for note in notes[:LONGEST]])
            columns["collection"].append(path.removeprefix(CORPUS).partition("/")[0])
            columns["metre"].append(metre or None)
            columns["parts"].append(float(len({part for *_, part in notes})))
    many = Counter(columns["collection"])
    columns["collection"] = [
        name if many[name] >= RARE else "other" for name in columns["collection"]
    ]
    records(out, columns)
    events = {
        "columns": ["pitch", "octave", "duration", "part"],
        "categories": {"pitch": list(CLASSES)},
        "time": "time",
    }
    describe(
        out,
        {"notes": field("events", max_events=LONGEST, **events)},
        {"collection": "category", "metre": "category", "parts": Label("number")},
        title="Scores of music21's corpus as events",
        licence="works out of copyright; encodings free to use, some not commercially",
    )


def _chosen(paths: list[str]) -> list[str]:
    """The scores to read, all of small collections and the same random ones of large ones."""
    by_collection: dict[str, list[str]] = {}
    for path in paths:
        collection, _, file = path.removeprefix(CORPUS).partition("/")
        if (
            path.startswith(CORPUS)
            and file.endswith((".mxl", ".xml", ".musicxml", ".krn"))
            and collection not in NOT_MUSIC
        ):
            by_collection.setdefault(collection, []).append(path)
    shuffled = {
        name: sorted(scores, key=lambda p: hashlib.blake2b(p.encode()).digest())
        for name, scores in by_collection.items()
    }
    return sorted(
        path for name, scores in shuffled.items() for path in scores[: MOST.get(name, len(scores))]
    )


def _event(note: _scores.Note) -> dict[str, float | str]:
    onset, length, height, part = note
    return {
        "time": float(onset),
        "pitch": CLASSES[height % 12],
        "octave": float(height // 12),
        "duration": float(length),
        "part": float(part),
    }

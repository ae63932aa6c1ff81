"""Tux Paint's captions read aloud: recordings in six languages, each with the text that is read.

People reading captions of Tux Paint's stamps in French, Romanian, Russian, Bulgarian, Catalan and
Spanish, the languages with the most recordings. `speech` is the sound, `caption` the text in its
language. Labels `language`, `stamp`, and the stamp's `category`. No stamp is in two parts. Left
out: nine more languages, one of which is read by a machine; recordings without a caption.
"""

from pathlib import Path
from typing import Any

from amodal.data.sets import tuxpaint
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = tuxpaint.PACKAGES
LICENCE = "GPL-2"
RECORDS = 5437
LANGUAGES = ("fr", "ro", "ru", "bg", "ca", "es")
STAMPS = "usr/share/tuxpaint/stamps/"


def write(out: Path, archives: list[Path]) -> None:
    files = {path.removeprefix(STAMPS): content for path, content in deb(archives[0], STAMPS)}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("key", "speech", "caption", "language", "stamp", "category")
    }
    (out / "speech").mkdir()
    for stem in sorted(name.removesuffix(".txt") for name in files if name.endswith(".txt")):
        captions = _captions(files[f"{stem}.txt"])
        for language in LANGUAGES:
            recorded = files.get(f"{stem}_desc_{language}.ogg")
            if not recorded or language not in captions:
                continue
            stamp = stem.replace("/", "-")
            path = f"speech/{stamp}-{language}.ogg"
            (out / path).write_bytes(recorded)
            category = stem.partition("/")[0]
            cells = (f"{stamp}-{language}", path, captions[language], language, stamp, category)
            for column, cell in zip(columns.values(), cells):
                column.append(cell)
    records(out, columns)
    describe(
        out,
        {"speech": field("audio", max_seconds=6.0), "caption": field("text")},
        dict.fromkeys(("language", "category", "stamp"), "category"),
        title="Captions of Tux Paint's stamps, read aloud in six languages",
        licence=LICENCE,
        split_by="stamp",
    )


def _captions(content: bytes) -> dict[str, str]:
    """Language -> caption; lines that begin with `LANGUAGE.utf8=`."""
    captions = {}
    for line in content.decode("utf-8", errors="replace").splitlines()[1:]:
        language, found, text = line.partition(".utf8=")
        if found and text.strip():
            captions[language.strip()] = text.strip()
    return captions

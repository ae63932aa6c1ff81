"""Tux Paint's stamps: 953 pictures with captions in 11 languages, spoken in six, and noises.

Speech is real people reading the captions, and is absent for many records in most languages;
`speech` is the French one, the most complete. Captions of other languages are `caption_es` and so
on, speech `speech_ro` and so on, `sound` is the noise the thing makes. Half of the pictures are
cut-out photographs, half are drawn; they are put on white and made at most 128 pixels. Training on
everything is rarely meant: take `dataset.select(["image", "caption", "speech"])`. Left out:
captions of 68 more languages, speech of 9 more (65 English clips among them are kept as
`speech_en`).
"""

import re
from pathlib import Path

from amodal.data.fetch import Debian
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, picture, records

PACKAGES = (
    Debian(
        "tuxpaint-stamps-default",
        "2025.03.31-1",
        "6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb",
        80.9,
    ),
)
LICENCE = "GPL-2 (sound effects: mixed free licences)"
RECORDS = 953
CAPTIONS = ("fr", "de", "es", "it", "nl", "ro", "ru", "ca", "ja", "el")
SPOKEN = {
    "speech": "fr",
    "speech_ro": "ro",
    "speech_ru": "ru",
    "speech_ca": "ca",
    "speech_es": "es",
    "speech_en": "en",
}
STAMPS = "usr/share/tuxpaint/stamps/"
LONGEST = 128


def write(out: Path, archives: list[Path]) -> None:
    files = {path.removeprefix(STAMPS): content for path, content in deb(archives[0], STAMPS)}
    columns: dict[str, list[str | None]] = {
        "key": [],
        "image": [],
        "caption": [],
        **{f"caption_{language}": [] for language in CAPTIONS},
    }
    columns |= {name: [] for name in (*SPOKEN, "sound", "category", "kind")}
    for stem in sorted(name.removesuffix(".txt") for name in files if name.endswith(".txt")):
        key = stem.replace("/", "-")
        captions = _captions(files[f"{stem}.txt"])
        row: dict[str, str | None] = {
            "key": key,
            "category": stem.partition("/")[0],
            "kind": stem.rpartition("/")[0],
        }
        row |= {
            "caption": captions.get("en"),
            **{f"caption_{x}": captions.get(x) for x in CAPTIONS},
        }
        drawn = files.get(f"{stem}.png")
        row["image"] = _write(out, f"image/{key}.png", picture(drawn, LONGEST)) if drawn else None
        for name, language in SPOKEN.items():
            row[name] = _sound(
                out, files, name, key, stem + ("_desc" if language == "en" else f"_desc_{language}")
            )
        row["sound"] = _sound(out, files, "sound", key, stem)
        for name, column in columns.items():
            column.append(row[name])
    records(out, columns)
    fields = {
        "image": field("image", size=64),
        **{name: field("text") for name in columns if name.startswith("caption")},
    }
    fields |= {name: field("audio") for name in (*SPOKEN, "sound")}
    describe(
        out,
        fields,
        {"category": "category", "kind": "category"},
        title="Tux Paint's stamps",
        licence="GPL-2",
    )


def _captions(content: bytes) -> dict[str, str]:
    """Language -> caption. The first line is English, the others begin with their language."""
    first, *others = content.decode("utf-8", errors="replace").splitlines() or [""]
    captions = {
        match[1]: match[2].strip()
        for line in others
        if (match := re.match(r"([\w@]+)\.utf8=(.*)", line))
    }
    return {language: text for language, text in ({"en": first.strip()} | captions).items() if text}


def _sound(out: Path, files: dict[str, bytes], field: str, key: str, stem: str) -> str | None:
    ending = next((e for e in (".ogg", ".wav") if files.get(stem + e)), None)
    return ending and _write(out, f"{field}/{key}{ending}", files[stem + ending])


def _write(out: Path, path: str, content: bytes) -> str:
    (out / path).parent.mkdir(exist_ok=True)
    (out / path).write_bytes(content)
    return path

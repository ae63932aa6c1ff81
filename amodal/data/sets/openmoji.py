"""OpenMoji: 2,465 pictures of emoji (64 pixels) with a short English text, tags, and names in seven
languages.

Drawn by one team in one style, given as vector graphics and rendered on white here. 1,949 are in
Unicode's list and have names in other languages (`name_de` and so on, from emojibase-data); the
others are OpenMoji's own. Labels are Unicode's group and subgroup. Left out: 2,030 variants with
skin tones, the black outlines, names in 21 more languages. Variants of one person (man, woman,
role) are separate records and may be in different parts of the split.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from amodal.core import AmodalError
from amodal.data.fetch import Npm
from amodal.data.sets.shared.archives import tgz
from amodal.data.sets.shared.writing import describe, field, picture, records

PACKAGES = (
    Npm(
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        4.3,
    ),
    Npm(
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        6.7,
    ),
)
LICENCE = "CC BY-SA 4.0 (pictures, OpenMoji project), MIT (names, emojibase-data)"
RECORDS = 2465
LANGUAGES = ("de", "fr", "es", "pl", "ru", "hi", "ja")
SIZE = 64
DRAWINGS = "package/color/svg/"


def write(out: Path, archives: list[Path]) -> None:
    files = dict(tgz(archives[0], "package/color/svg/")) | dict(
        tgz(archives[0], "package/data/openmoji.json")
    )
    chosen = [e for e in json.loads(files["package/data/openmoji.json"]) if not e["skintone"]]
    chosen = [e for e in chosen if f"{DRAWINGS}{e['hexcode']}.svg" in files]
    names = {}
    for path, content in tgz(archives[1]):
        language, _, rest = path.removeprefix("package/").partition("/")
        if language in LANGUAGES and rest == "data.json":
            names[language] = {entry["hexcode"]: entry["label"] for entry in json.loads(content)}
    records(
        out,
        {
            "key": [e["hexcode"] for e in chosen],
            "image": rendered([files[f"{DRAWINGS}{e['hexcode']}.svg"] for e in chosen]),
            "annotation": [e["annotation"] for e in chosen],
            "tags": [_tags(e) for e in chosen],
            **{f"name_{x}": [names[x].get(e["hexcode"]) for e in chosen] for x in LANGUAGES},
            "group": [e["group"] for e in chosen],
            "subgroup": [e["subgroups"] for e in chosen],
        },
    )
    texts = ("annotation", "tags", *(f"name_{x}" for x in LANGUAGES))
    describe(
        out,
        {"image": field("image", size=64)} | {name: field("text") for name in texts},
        {"group": "category", "subgroup": "category"},
        title="OpenMoji: emoji with texts and names",
        licence="CC BY-SA 4.0",
    )


def _tags(entry: Mapping[str, str]) -> str | None:
    tags = [tag.strip() for tag in f"{entry['tags']},{entry['openmoji_tags']}".split(",")]
    return ", ".join(dict.fromkeys(tag for tag in tags if tag)) or None


def rendered(drawings: list[bytes], side: int = SIZE) -> list[bytes]:
    """Render vector graphics on white.

    Args:
        drawings: SVG.
        side: of the pictures, in pixels.

    Raises:
        AmodalError: cairosvg is not installed.
    """
    try:
        import cairosvg
    except (ImportError, OSError) as error:
        raise AmodalError(
            f"openmoji is rendered with cairosvg: pip install cairosvg, and cairo itself ({error})"
        ) from None
    from amodal.progress import Bar

    with Bar("render", len(drawings)) as bar:
        done = []
        for drawing in drawings:
            # Some drawings refer to markers that do not exist.
            whole = re.sub(rb'marker-(start|mid|end)="[^"]*"', b"", drawing)
            done.append(
                picture(cairosvg.svg2png(bytestring=whole, output_width=side, output_height=side))
            )
            bar.step("pictures")
    return done

"""Emoji of two vendors: the same emoji as OpenMoji and as Twemoji draw it (32 pixels), with its
English name.

Products, as it were, that two shops show in pictures of their own: a record is one picture, `emoji`
says of which. Pictures are vector graphics, rendered on white here. The name is Unicode's and the
same for both. Labels are Unicode's group and subgroup, the vendor and the emoji; all pictures of an
emoji are in the same part of the split. Left out: emoji that only one vendor has, skin tones,
OpenMoji's own, and flags, whose pictures are the same wherever they come from.
"""

import hashlib
import json
from pathlib import Path

from amodal.data.fetch import Npm
from amodal.data.sets import openmoji
from amodal.data.sets.shared.archives import tgz
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    openmoji.PACKAGES[0],
    Npm(
        "@twemoji/svg",
        "15.0.0",
        "1d2907557a422c7c4e3feca50ef915c39da1db3d76b4a4d7e73fb59bce4403c3",
        1.5,
    ),
)
LICENCE = "CC BY-SA 4.0 (OpenMoji project) and CC BY 4.0 (Twemoji, Twitter and contributors)"
RECORDS = 3192
SIZE = 32
NOT_UNICODE = ("extras-openmoji", "extras-unicode", "flags")


def write(out: Path, archives: list[Path]) -> None:
    drawn = {}
    openmoji_files = dict(tgz(archives[0], openmoji.DRAWINGS)) | dict(
        tgz(archives[0], "package/data/openmoji.json")
    )
    drawn["openmoji"] = {
        _plain(Path(p).stem): svg for p, svg in openmoji_files.items() if p.endswith(".svg")
    }
    drawn["twemoji"] = {
        _plain(Path(p).stem): svg for p, svg in tgz(archives[1]) if p.endswith(".svg")
    }
    entries = json.loads(openmoji_files["package/data/openmoji.json"])
    entries = [e for e in entries if not e["skintone"] and e["group"] not in NOT_UNICODE]
    entries = {
        _plain(e["hexcode"]): e
        for e in entries
        if all(_plain(e["hexcode"]) in d for d in drawn.values())
    }
    chosen = [(code, e, vendor) for code, e in entries.items() for vendor in drawn]
    records(
        out,
        {
            "key": [f"{code} {vendor}" for code, _, vendor in chosen],
            "image": openmoji.rendered([drawn[vendor][code] for code, _, vendor in chosen], SIZE),
            "title": [e["annotation"] for _, e, _ in chosen],
            "emoji": [code for code, *_ in chosen],
            "vendor": [vendor for *_, vendor in chosen],
            "group": [e["group"] for _, e, _ in chosen],
            "subgroup": [e["subgroups"] for _, e, _ in chosen],
            "split": [_part(code) for code, *_ in chosen],
        },
    )
    describe(
        out,
        {"image": field("image", size=SIZE, channels=3, flip=False), "title": field("text")},
        dict.fromkeys(("emoji", "vendor", "group", "subgroup"), "category"),
        title="Emoji of two vendors",
        licence=LICENCE,
        split="split",
    )


def _plain(code: str) -> str:
    """The code of an emoji without the mark for the coloured form, which some vendors leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _part(code: str) -> str:
    share = int.from_bytes(hashlib.blake2b(code.encode(), digest_size=8).digest(), "little") / 2**64
    return "test" if share < 0.3 else "valid" if share < 0.4 else "train"

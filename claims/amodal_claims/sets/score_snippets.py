"""Sheet music and sound: snippets of eight quarter notes from the pieces of `music`, drawn and
played, some paired and some not.

Notes are real (scores of music21's corpus); pictures and sound are made here by `engraving`,
without a notation program or sampled instruments: `score` is a grand staff of 64 pixels,
proportional in time, `sound` tones of partials at 6 kHz. Two conditions: "clean" (one print, one
decaying tone, 120 quarters a minute) and "real", which stands for scans and recordings (worn,
turned and blurred prints with blots; four sorts of tone, any tempo, out of tune, in a room, with
noise). By piece, `role` says what there is: "pairs" (clean), "sound" and "score" (real, the other
missing), and "valid" and "test", each snippet once in either condition. Label `piece`. Left out:
keys, bars, slurs, voices, beams; pieces of fewer than two snippets.
"""

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile

from amodal.data.sets import music
from amodal.data.sets.shared.writing import describe, field, records
from amodal_claims.sets.shared.engraving import Note, Playing, Print, drawn, played

PACKAGES = music.PACKAGES
LICENCE = music.LICENCE
QUARTERS, MOST, FEWEST = 8, 4, 6  # of a snippet; snippets of a piece; notes of a snippet
RATE, SIDE = 6000, 64
ROLES = {"pairs": 0.25, "sound": 0.25, "score": 0.2, "valid": 0.05, "test": 0.25}


def write(out: Path, archives: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        music.write(Path(folder), archives)
        pieces = pq.read_table(
            Path(folder) / "records.parquet", columns=["key", "notes"]
        ).to_pylist()
    rows = [row for piece in pieces for row in snippets(piece["key"], piece["notes"])]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    describe(
        out,
        {
            "score": field("image", size=SIDE, channels=1, patch=16, flip=False),
            "sound": field(
                "audio",
                rate=RATE,
                mels=48,
                window_ms=64.0,
                hop_ms=50.0,
                patch=(12, 24),
                max_seconds=5.0,
            ),
        },
        dict.fromkeys(("piece", "role", "condition"), "category"),
        title="Snippets of scores, drawn and played",
        licence=LICENCE,
        split="split",
    )


def snippets(piece: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a piece, none if it is too short."""
    notes = [
        (e["time"], e["duration"], int(12 * (e["octave"] + 1) + music.CLASSES.index(e["pitch"])))
        for e in events
    ]
    cut = [
        s
        for i in range(int(max((n[0] for n in notes), default=0) // QUARTERS) + 1)
        if len(s := within(notes, i)) >= FEWEST
    ]
    cut = (
        [cut[i] for i in np.linspace(0, len(cut) - 1, min(MOST, len(cut))).round().astype(int)]
        if len(cut) > 1
        else []
    )
    role = role_of(piece)
    conditions = {"pairs": ("clean",), "valid": ("clean", "real"), "test": ("clean", "real")}.get(
        role, ("real",)
    )
    return [
        record(piece, i, part, role, condition)
        for i, part in enumerate(cut)
        for condition in conditions
    ]


def within(notes: list[Note], number: int) -> list[Note]:
    """The notes that begin in a snippet, cut off at its end. Times are from its beginning."""
    first = number * QUARTERS
    return [
        (t - first, min(d, QUARTERS - (t - first)), m)
        for t, d, m in notes
        if first <= t < first + QUARTERS
    ]


def role_of(piece: str) -> str:
    """The role of a piece, a function of its name alone."""
    share = (
        int.from_bytes(
            hashlib.blake2b(piece.encode(), digest_size=8, person=b"role").digest(), "little"
        )
        / 2**64
    )
    return list(ROLES)[int(np.searchsorted(np.cumsum(list(ROLES.values())), share))]


def record(piece: str, number: int, notes: list[Note], role: str, condition: str) -> dict[str, Any]:
    """The record of a snippet, drawn and played as its role and condition ask for."""
    name = f"{piece} {number} {condition}"
    rng = np.random.default_rng(
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    )
    clean = condition == "clean"
    score = sound = None
    if role != "sound":
        score = drawn(notes, QUARTERS, rng, side=SIDE, look=Print() if clean else Print.worn(rng))
    if role != "score":
        packed = io.BytesIO()
        playing = Playing() if clean else Playing.live(rng)
        soundfile.write(
            packed,
            played(notes, QUARTERS, rng, rate=RATE, playing=playing),
            RATE,
            format="FLAC",
            subtype="PCM_16",
        )
        sound = packed.getvalue()
    labels = {"piece": piece, "role": role, "condition": condition}
    return {
        "key": name,
        "score": score,
        "sound": sound,
        **labels,
        "split": role if role in ("valid", "test") else "train",
    }

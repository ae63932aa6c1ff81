"""Notes of scores in MusicXML and in Humdrum's kern: onset, duration, pitch and part.

Times are in quarter notes.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from fractions import Fraction

STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
Note = tuple[Fraction, Fraction, int, int]
"""Onset, duration, semitones above C0 (middle C is 48), part from the top."""


class Unread(Exception):
    """A score with something that is not read here."""


def musicxml(content: bytes) -> tuple[list[Note], str]:
    """Read MusicXML, plain or compressed. Grace notes and repeats are passed over.

    Args:
        content: of the file.

    Returns:
        The notes in order of time, tied ones as one, and the first time signature, "" for none.
    """
    if content[:2] == b"PK":  # .mxl
        archive = zipfile.ZipFile(io.BytesIO(content))
        content = archive.read(
            next(n for n in archive.namelist() if n.endswith("xml") and not n.startswith("META"))
        )
    root = ElementTree.fromstring(content)
    notes: list[Note] = []
    metre = ""
    for part, voice in enumerate(root.findall("part")):
        notes += _part(voice, part)
        time = voice.find(".//time")
        if time is not None and not metre and time.find("beats") is not None:
            metre = f"{time.findtext('beats')}/{time.findtext('beat-type')}"
    return sorted(notes, key=_order), metre


def _part(voice: ElementTree.Element, part: int) -> list[Note]:
    notes: list[Note] = []
    tied: dict[int, int] = {}
    divisions, up, begin = 1, 0, Fraction(0)
    for measure in voice.findall("measure"):
        time_now = last = furthest = begin
        for element in measure:
            length = Fraction(element.findtext("duration") or 0) / divisions
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions") or divisions)
                up = int(element.findtext("transpose/chromatic") or up)
            elif element.tag == "backup":
                time_now -= length
            elif element.tag == "forward":
                time_now += length
            elif element.tag == "note" and element.find("grace") is None:
                onset = last if element.find("chord") is not None else time_now
                pitch = element.find("pitch")
                if pitch is not None:
                    _add_note(notes, tied, element, pitch, onset, length, up, part)
                last, time_now = onset, max(time_now, onset + length)
            furthest = max(furthest, time_now)
        begin = furthest
    return notes


def _add_note(
    notes: list[Note],
    tied: dict[int, int],
    element: ElementTree.Element,
    pitch: ElementTree.Element,
    onset: Fraction,
    length: Fraction,
    up: int,
    part: int,
) -> None:
    """Append a note, or make the one that it is tied to longer. tied: semitone -> the index of a
    note that a tie goes on from."""
    height = 12 * int(pitch.findtext("octave", "")) + STEPS[pitch.findtext("step", "")] + up
    height += round(float(pitch.findtext("alter") or 0))
    ties = {tie.get("type") for tie in element.findall("tie")}
    if "stop" in ties and height in tied:
        i = tied[height]
        notes[i] = (notes[i][0], onset + length - notes[i][0], height, part)
    else:
        tied[height] = len(notes)
        notes.append((onset, length, height, part))
    if "start" not in ties:
        tied.pop(height, None)


def kern(content: bytes) -> tuple[list[Note], str]:
    """Read kern; as `musicxml`.

    Raises:
        Unread: voices divide, or there are other spines than of notes.
    """
    notes: list[Note] = []
    tied: dict[tuple[int, int], int] = {}
    ends: list[Fraction] = []
    metre = ""
    for line in content.decode("utf-8", "replace").splitlines():
        cells = line.split("\t")
        if line.startswith("**"):
            if any(cell != "**kern" for cell in cells):
                raise Unread("other spines than kern")
            ends = [Fraction(0)] * len(cells)
        elif line.startswith("*"):
            if any(cell in ("*^", "*v", "*x", "*+") for cell in cells):
                raise Unread("spines that divide or change places")
            metre = metre or next(
                (m[1] for c in cells if (m := re.fullmatch(r"\*M(\d+/\d+)", c))), ""
            )
        elif ends and line and line[0] not in "!=":
            now = min(ends)
            for spine, cell in enumerate(cells):
                if cell != "." and "q" not in cell.lower():
                    ends[spine] = now + _kern_length(cell)
                    for token in cell.split():
                        _add_kern_note(
                            notes, tied, token, now, ends[spine], spine, len(ends) - 1 - spine
                        )
    return sorted(notes, key=_order), metre


def _kern_length(cell: str) -> Fraction:
    match = re.search(r"(\d+)(\.*)", cell)
    if not match:
        raise Unread(f"no duration in {cell!r}")
    whole = (
        Fraction(4 * 2 ** len(match[1])) if set(match[1]) == {"0"} else Fraction(4, int(match[1]))
    )
    return whole * (2 - Fraction(1, 2 ** len(match[2])))


def _add_kern_note(
    notes: list[Note],
    tied: dict[tuple[int, int], int],
    token: str,
    onset: Fraction,
    end: Fraction,
    spine: int,
    part: int,
) -> None:
    match = re.search(r"([a-g]+|[A-G]+)(#*)(-*)", token)
    if not match or "r" in token:
        return
    letters = match[1]
    octave = 3 + len(letters) if letters.islower() else 4 - len(letters)
    height = 12 * octave + STEPS[letters[0].upper()] + len(match[2]) - len(match[3])
    if ("_" in token or "]" in token) and (spine, height) in tied:
        i = tied[spine, height]
        notes[i] = (notes[i][0], end - notes[i][0], height, part)
    else:
        tied[spine, height] = len(notes)
        notes.append((onset, end - onset, height, part))
    if "[" not in token and "_" not in token:
        tied.pop((spine, height), None)


def _order(note: Note) -> tuple[Fraction, int, int]:
    return note[0], note[3], note[2]

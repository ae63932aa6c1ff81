"""Clouds as lines of numbers, such as .xyz, .pts, .txt and .csv, with or without names of columns.

What could be read in more than one way is refused, as a class that is taken for a channel, or a
half for two numbers, would not be noticed later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from amodal.modalities.shared.base import BadValue

COMMENTS = ("#", "//")
CELL = r"[ ]*(?:nan|[-+]?\d*(?:,\d+)?(?:[eE][-+]?\d+)?)[ ]*"
DECIMALS = re.compile(rf"{CELL}(?:[;\t]{CELL})*")
"""A line of numbers with decimal commas, apart by semicolons or tabs."""
WITHIN, APART = re.compile(r"[^\s,],[^\s,]"), re.compile(r"[^\s,] +[^\s,]")
"""A comma within a word, and words that spaces alone hold apart."""
UNIT = re.compile(r"[\[(]m[\])]$")
EMPTY = re.compile(r"([,;])[ \t]*(?=[,;])")
"""A cell without a number, and what stands before it."""


def table(data: bytes, known: Collection[str]) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """The numbers of a text, and the names of their columns, in lower case.

    Names are a line above the numbers, which may be a comment (`# x y z label`).

    Args:
        data: the whole file.
        known: names of columns, beside x, y and z, by which a comment is one of names.

    Returns:
        The names, None where there are none, and (n, columns) float64.

    Raises:
        BadValue: it holds no lines of numbers, or these may mean more than one thing.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadValue(f"neither points nor a mesh: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise BadValue("neither points nor a mesh: zeros within text")
    comments: list[str] = []
    lines: list[str] = []
    for line in text.replace('"', "").splitlines():
        bare = line.strip()
        if bare.startswith(COMMENTS):
            if len(lines) < 2:  # or within the numbers
                comments.append(bare.lstrip("#/ \t"))
        elif bare:
            lines.append(bare)
    if not lines:
        raise BadValue("0 points")
    head = ""
    if not _is_number(_words(lines[0])[0]):
        head, lines = lines[0], lines[1:]
    elif len(_words(lines[0])) == 1 and len(lines) > 1:
        lines = _after_count(lines)
    rows = _numbers(lines)
    names = _fitting(head, rows.shape[1]) if head else None
    if head and names is None:
        raise BadValue(
            f"the line {head[:60]!r} has {len(_words(head))} names, and there are "
            f"{rows.shape[1]} columns of numbers: write one name a column, or none"
        )
    for comment in reversed(comments):
        names = names or _of_comment(comment, rows.shape[1], known)
    twice = {name for name in names or () if names and names.count(name) > 1}
    if twice & {*"xyz", *known}:
        raise BadValue(f"two columns are called {', '.join(sorted(twice))}")
    return names, rows


def _words(line: str) -> list[str]:
    return re.split(r"[,;\s]+", line.strip(",; \t")) or [""]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _fitting(line: str, columns: int) -> tuple[str, ...] | None:
    """The names of a line, if there is one a column; names in a .csv may have spaces."""
    for words in (_words(line), re.split(r"[,;\t]", line)):
        if len(words) == columns:
            return tuple(UNIT.sub("", word.strip().lower()).strip() for word in words)
    return None


def _of_comment(line: str, columns: int, known: Collection[str]) -> tuple[str, ...] | None:
    """The names that a comment above the numbers holds; None where it holds none."""
    words = [UNIT.sub("", word.lower()) for word in _words(line)]
    names = _fitting(line, columns)
    named = set("xyz") <= set(words)
    if columns == 3 and [word for word in words if word in set("xyz")] == [*"xyz"]:
        return None  # no doubt, as in "x, y, z in metres"
    if named and names is None:
        raise BadValue(
            f"the comment {line[:60]!r} has {len(words)} names, and there are {columns} columns of "
            "numbers: write one name a column, or remove it"
        )
    return names if named or set(words) & set(known) else None


def _after_count(lines: list[str]) -> list[str]:
    """The lines after the first one, which is the number of points, as in .pts."""
    if not _is_number(_words(lines[-1])[0]):
        raise BadValue(
            f"the line {lines[-1][:40]!r} begins with a word: this is .xyz of the atoms of a "
            "molecule, not of points"
        )
    if lines[0].isdecimal() and int(lines[0]) > len(lines) - 1:
        raise BadValue(f"truncated: {lines[0]} points, and {len(lines) - 1:,} lines")
    return lines[1:]


def _numbers(lines: Sequence[str]) -> np.ndarray:
    """(n, columns) of lines whose columns are apart by spaces, tabs, commas or semicolons."""
    whole = "\n".join(lines)
    if "," in whole and (";" in whole or ("\t" in whole and not re.search(r",\s|\s,", whole))):
        for line in lines:
            if not DECIMALS.fullmatch(line):
                raise BadValue(
                    f"commas and {'semicolons' if ';' in whole else 'tabs'} in {line[:60]!r}, "
                    "which are no numbers with decimal commas: write decimals with a point"
                )
        whole = whole.replace(",", ".")
    elif "," in whole and WITHIN.search(whole) and APART.search(whole):
        raise BadValue(
            f"commas and spaces in {lines[0][:60]!r}, which may be decimals or columns: write "
            "decimals with a point, and one mark between columns"
        )
    if all(line.endswith((",", ";")) for line in lines):
        whole = re.sub(r"[,;]+(?=\n|$)", "", whole)
    filled = re.sub(r"(?m)[,;]$", r"\g<0>nan", EMPTY.sub(r"\1nan", whole))
    plain = filled.replace(",", " ").replace(";", " ").replace("\t", " ")
    try:
        rows = np.loadtxt(plain.split("\n"), np.float64, comments=None, ndmin=2) if plain else None
    except ValueError as error:
        raise BadValue(f"not lines of numbers such as x y z: {str(error)[:120]}") from None
    if rows is None:
        raise BadValue("0 points")
    return rows

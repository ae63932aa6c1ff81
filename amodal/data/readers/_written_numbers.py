"""Numbers as people write them in tables: decimal commas, and marks between thousands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MISSING = {"", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "null", "NULL", "None"}
"""Cells of a CSV that stand for a missing value. As for pandas, "none" is an ordinary word."""
THOUSANDS = r"[+-]?[1-9]\d{0,2},\d{3}"
"""A number whose comma may divide thousands."""


def plain_numbers(
    cells: Mapping[str, Sequence[str]], delimiter: str
) -> tuple[dict[str, list[str]], list[str]]:
    """Columns whose numbers have commas, as Python writes numbers.

    Args:
        cells: column -> its texts.
        delimiter: what divides the cells. A comma that divides none may divide whole numbers from
            fractions.

    Returns:
        Column -> its texts, of those that change; sentences for the user.
    """
    changed: dict[str, list[str]] = {}
    notes = []
    points = [name for name, texts in cells.items() if has_thousands(texts, ",", ".")]
    commas = []
    if delimiter != ",":
        for name, texts in cells.items():
            if has_decimal_commas(texts) or has_thousands(texts, ".", ","):
                commas.append(name)
    for names, thousand, decimal in ((points, ",", "."), (commas, ".", ",")):
        for name in names:
            texts = [text.replace(thousand, "") for text in cells[name]]
            changed[name] = [text.replace(decimal, ".") for text in texts]
    if commas:
        notes.append(f"decimal commas: {', '.join(commas)} are read as numbers")
    if points:
        notes.append(f"commas between thousands: {', '.join(points)} are read as numbers")
    others = {} if delimiter == "," else {n: c for n, c in cells.items() if n not in changed}
    if doubtful := [name for name, column in others.items() if _may_be_thousands(column)]:
        notes.append(
            f"{', '.join(doubtful)}: read as text, since the comma of a number such as 1,234 may "
            "divide thousands or fractions; write 1234 or 1.234"
        )
    return changed, notes


def has_thousands(texts: Sequence[str], thousand: str, decimal: str) -> bool:
    """Whether the cells of a column are numbers with this mark between thousands.

    It is certain only where a number has both marks, as 1.234,50 has.
    """
    if not any(thousand in text and decimal in text for text in texts):
        return False
    filled = [text.strip() for text in texts if text.strip() not in MISSING]
    t, d = re.escape(thousand), re.escape(decimal)
    number = re.compile(rf"[+-]?(\d+|\d{{1,3}}({t}\d{{3}})+)?({d}\d+)?")
    return all(number.fullmatch(text) and text[-1:].isdigit() for text in filled)


def has_decimal_commas(texts: Sequence[str]) -> bool:
    """Whether the cells of a column are numbers of which some have a decimal comma.

    1,234 could be a thousand too, and 0,234 could not: if all commas are followed by three digits,
    and no number begins with 0, it is not decided.
    """
    filled = [text.strip() for text in texts if text.strip() not in MISSING]
    with_comma = [text for text in filled if "," in text]
    return (
        any(not re.fullmatch(THOUSANDS, text) for text in with_comma)
        and all(re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", text) for text in with_comma)
        and all(re.fullmatch(r"[+-]?\d+", text) for text in filled if "," not in text)
    )


def _may_be_thousands(texts: Sequence[str]) -> bool:
    """Whether a column is numbers with commas, of which one cannot say what they divide."""
    filled = [text.strip() for text in texts if text.strip() not in MISSING]
    return any("," in text for text in filled) and all(
        re.fullmatch(THOUSANDS, text) or re.fullmatch(r"[+-]?\d+", text) for text in filled
    )


def is_fraction(name: str) -> bool:
    """Whether the name of a column is a number with a fraction, which hardly anyone calls one."""
    return bool(re.fullmatch(r"[+-]?\d*[.,]\d+([eE][+-]?\d+)?", name))

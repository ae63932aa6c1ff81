"""Names in the scripts, styles and markup of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<regex>(?<=[(,=:\[!&|?{};])\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])+/[a-z]*)
    |(?P<name>[A-Za-z_$][\w$]*)
    |(?P<spread>\.\.\.)
    |(?P<dot>\.(?=[A-Za-z_$]))
    |(?P<number>\d[\w.]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
HTML_NAME = re.compile(r"""\b(?:id|class|name|for)\s*=\s*["']?([\w-]+(?:\s[\w-]+)*)""")
CSS_NAME = re.compile(r"(?:[#.]|--)([A-Za-z_][\w-]*)")


def tokens(source: str, line: int = 1) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line): name, member (a name after a dot), string, or other. Of a template
    literal, its text is a string and what stands in ${} is read like the rest."""
    place, after_dot = 0, False
    while place < len(source):
        if source[place] == "`":
            text, inside, end = template(source, place)
            yield "string", text, line + source.count("\n", 0, place)
            for start, part in inside:
                yield from tokens(part, line + source.count("\n", 0, start))
            place, after_dot = end, False
            continue
        found = TOKEN.match(source, place)
        assert found is not None
        kind = found.lastgroup or "other"
        number = line + source.count("\n", 0, place)
        if kind == "name":
            yield ("member" if after_dot else "name"), found.group(), number
        elif kind == "string":
            yield kind, found.group()[1:-1], number
        if found.group().strip():
            after_dot = kind == "dot"
        place = found.end()


def template(source: str, start: int) -> tuple[str, list[tuple[int, str]], int]:
    """Of the template literal at `start`: its own text, (place, code) of each ${}, and its end."""
    text, inside, place = "", [], start + 1
    while source[place] != "`":
        if source[place] == "\\":
            place += 2
        elif source.startswith("${", place):
            end = closing(source, place + 2)
            inside.append((place + 2, source[place + 2 : end]))
            text, place = text + " ", end + 1
        else:
            text, place = text + source[place], place + 1
    return text, inside, place + 1


def closing(source: str, place: int) -> int:
    """Where the } is that ends code which begins at `place`."""
    depth = 0
    while depth or source[place] != "}":
        if source[place] == "`":
            place = template(source, place)[2]
            continue
        found = TOKEN.match(source, place)
        assert found is not None
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        place = found.end()
    return place


def page_names(source: str, suffix: str) -> Iterator[tuple[str, str, int]]:
    """(kind, name, line) of a file of a page: `variable` or `member` of a script, `element` for
    an id, a class, a custom property, or a string that is one word."""
    if suffix == ".js":
        for kind, text, line in tokens(source):
            if kind == "string":
                parts = text.split() if re.fullmatch(r"[#.]?[\w-]+", text.strip()) else ()
                yield from (("element", part, line) for part in parts)
            else:
                yield ("variable" if kind == "name" else kind), text, line
        return
    pattern = CSS_NAME if suffix == ".css" else HTML_NAME
    for found in pattern.finditer(source):
        line = 1 + source.count("\n", 0, found.start())
        yield from (("element", name, line) for name in found.group(1).split())

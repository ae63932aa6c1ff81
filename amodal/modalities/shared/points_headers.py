"""The format of a file of points or of a mesh, and how much it declares, by its header alone."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass

from amodal.modalities.shared.base import BadValue

PLY, LAS, GLB, OFF, STL, OBJ, TEXT = "PLY", "LAS", "glTF", "OFF", "STL", "OBJ", "text"
MAX_POINTS = 2**26
"""Points or faces of a file that is read."""
HEAD = 65_536
"""Bytes that a header has at most."""
STL_HEADER, STL_FACE = 84, 50
VLR, EVLR = 54, 60
"""Bytes that a variable length record of LAS has at least, before and after the points."""
LAS_FORMAT, PACKED = 104, 0x80
"""Byte of LAS with the format of its points, and the bit that LAZ sets in it."""
LAZ_POINTS = 16
"""Points to a byte of LAZ, at most; scans have about one for three."""
GLTF_JSON = b"JSON"
PLY_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
PLY_KINDS = {
    "char": "i1",
    "uchar": "u1",
    "int8": "i1",
    "uint8": "u1",
    "short": "i2",
    "ushort": "u2",
    "int16": "i2",
    "uint16": "u2",
    "int": "i4",
    "uint": "u4",
    "int32": "i4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
"""Of a property of PLY -> as numpy writes them."""
OFF_HEADER = re.compile(rb"\s*(?:#[^\n]*\n\s*)*(?P<kind>(?:ST)?C?N?4?n?OFF)(?=[\s\d])\s*")
PLY_AXIS = re.compile(rb"(?m)^\s*property\s+\w+\s+[XYZ]\s*$")
COMMENTS = re.compile(rb"(?:\s*#[^\n]*\n)*")
OBJ_LINE = re.compile(rb"(?m)^\s*v\s+[-+.\d]")


@dataclass(frozen=True)
class Declared:
    """What a file declares.

    Attributes:
        form: its format, one of this module's names.
        points: of the cloud, or vertices of the mesh; 0 where only reading says.
        faces: of the mesh; 0 for a cloud, or where only reading says.
    """

    form: str
    points: int = 0
    faces: int = 0


def declared(data: bytes) -> Declared:
    """What a file says of itself, from its first bytes.

    Args:
        data: the whole file, of which the header is read.

    Raises:
        BadValue: the header is damaged, or promises more than the file holds.
    """
    if data[:3] == b"ply":
        return _ply(data)
    if data[:4] == b"LASF":
        return _las(data)
    if data[:4] == b"glTF":
        return _gltf(data)
    if (match := OFF_HEADER.match(data[:HEAD])) is not None:
        return _off(data, match.end())
    count = struct.unpack_from("<I", data, STL_HEADER - 4)[0] if len(data) >= STL_HEADER else 0
    if len(data) == STL_HEADER + STL_FACE * count:
        return Declared(STL, 3 * count, count)
    if data[:HEAD].lstrip()[:5].lower() == b"solid" and b"facet" in data[:HEAD]:
        return Declared(STL, 3 * data.count(b"endfacet"), data.count(b"endfacet"))
    if b"\0" in data[:HEAD]:
        raise BadValue(
            "neither points nor a mesh (PLY, LAS, LAZ, glTF, OFF, STL, OBJ or lines of numbers); "
            f"as a binary STL it would have {count:,} faces, and it has "
            f"{max(len(data) - STL_HEADER, 0) // STL_FACE:,}"
        )
    start = match.end() if (match := COMMENTS.match(data)) is not None else 0
    is_obj = OBJ_LINE.search(data[start : start + HEAD]) is not None
    return Declared(OBJ) if is_obj else Declared(TEXT, data.count(b"\n"))


def check_declared(header: Declared, most: int = MAX_POINTS) -> None:
    """Raise BadValue where a file declares more points or faces than `most`."""
    if max(header.points, header.faces) > most:
        what = "points" if header.points >= header.faces else "faces"
        raise BadValue(
            f"its header promises {max(header.points, header.faces):,} {what}, and at most "
            f"{most:,} are read: cut it into tiles, or thin it"
        )


def with_small_axes(data: bytes) -> bytes:
    """A PLY file whose places are called x, y and z, where they are X, Y and Z."""
    if PLY_AXIS.search(data[:HEAD]) is None:
        return data
    head, end, body = data.partition(b"end_header")
    return PLY_AXIS.sub(lambda match: match.group().lower(), head) + end + body


Elements = list[tuple[str, int, dict[str, tuple[str, ...]]]]
"""Name, number of rows, and of each property its kind; two kinds of a list: length and entries."""


def ply_header(data: bytes) -> tuple[str, Elements, int]:
    """The header of a PLY file.

    Args:
        data: the whole file.

    Returns:
        "ascii", "binary_little_endian" or "binary_big_endian"; the elements; where the rows begin.

    Raises:
        BadValue: it is damaged.
    """
    head, end, body = data[:HEAD].partition(b"end_header")
    lines = [line.split() for line in head.decode("latin-1").splitlines()]
    if not end or len(lines) < 2 or lines[1][:1] != ["format"] or len(lines[1]) < 2:
        raise BadValue("damaged PLY: its header does not end")
    if lines[1][1] not in PLY_FORMATS:
        raise BadValue(f"a PLY of the format {lines[1][1][:40]!r}: {', '.join(PLY_FORMATS)}")
    elements: Elements = []
    for line in lines[2:]:
        bad = BadValue(f"damaged PLY: the line {' '.join(line)[:60]!r} of its header")
        if line[:1] == ["element"]:
            if len(line) != 3 or not line[2].isdecimal():
                raise bad
            elements.append((line[1], int(line[2]), {}))
        elif line[:1] == ["property"]:
            is_list = line[1:2] == ["list"]
            kinds = tuple(line[2:4] if is_list else line[1:2])
            if not elements or len(line) != (5 if is_list else 3):
                raise bad
            if any(kind not in PLY_KINDS for kind in kinds):
                raise bad
            elements[-1][2][line[-1]] = kinds
    start = len(head) + len(end) + (2 if body[:2] == b"\r\n" else 1)
    return lines[1][1], elements, start


def _ply(data: bytes) -> Declared:
    form, elements, start = ply_header(data)
    counts = {name: count for name, count, _ in elements}
    found = Declared(PLY, counts.get("vertex", 0), counts.get("face", 0))
    check_declared(found)
    least = 0
    for _, count, properties in elements:
        # a list has its length at least; a line of text a character and its end
        width = sum(int(PLY_KINDS[kinds[0]][1]) for kinds in properties.values())
        least += count * (width if form.startswith("binary") else 2 * bool(properties))
    held = max(len(data) - start, 0)
    if least > held + (form == "ascii"):  # whose last line may not end
        raise BadValue(
            f"truncated PLY: its header promises {found.points:,} points and {found.faces:,} "
            f"faces, which is more than its {held:,} bytes hold"
        )
    if form == "ascii":
        _check_lines("PLY", data[start:], sum(count for _, count, of in elements if of))
    return found


def points_of(data: bytes) -> int:
    """The points that a LAS file promises, of any version."""
    (count,) = struct.unpack_from("<I", data, 107)
    later = data[25] >= 4 and len(data) >= 255
    return max(count, struct.unpack_from("<Q", data, 247)[0]) if later else int(count)


def _las(data: bytes) -> Declared:
    if len(data) < 227:
        raise BadValue("truncated LAS: its header does not end")
    minor, start, form, size = (
        data[25],
        *struct.unpack_from("<I", data, 96),
        *struct.unpack_from("<BH", data, 104),
    )
    count = points_of(data)
    found = Declared(LAS, count)
    check_declared(found)
    head, records = struct.unpack_from("<H", data, 94)[0], struct.unpack_from("<I", data, 100)[0]
    later, after = (
        struct.unpack_from("<QI", data, 235) if minor >= 4 and len(data) >= 247 else (0, 0)
    )
    if after and later + after * EVLR > len(data):
        raise BadValue(
            f"damaged LAS: {after:,} records after its points, from byte {later:,} of {len(data):,}"
        )
    if not head + records * VLR <= start <= len(data):
        raise BadValue(
            f"damaged LAS: {records:,} records before its points, and these begin at byte "
            f"{start:,} of {len(data):,}"
        )
    packed = bool(form & PACKED)
    if not packed and count * size > max(len(data) - start, 0):
        raise BadValue(
            f"truncated LAS: its header promises {count:,} points of {size} bytes, and it has "
            f"{max(len(data) - start, 0):,} bytes of points"
        )
    if packed and count > LAZ_POINTS * len(data):
        raise BadValue(
            f"damaged LAZ: its header promises {count:,} points, and it has {len(data):,} bytes"
        )
    return found


def _gltf(data: bytes) -> Declared:
    """Vertices and indices of all meshes; a mesh that is placed more than once counts once."""
    if len(data) < 20 or data[16:20] != GLTF_JSON:
        raise BadValue("truncated glTF, or one of version 1, which is not read")
    (length,) = struct.unpack_from("<I", data, 12)
    if length > len(data) - 20:
        raise BadValue(f"truncated glTF: {length:,} bytes of header, and it has {len(data) - 20:,}")
    try:
        tree = json.loads(data[20 : 20 + length])
        accessors = tree.get("accessors", [])
        counts = [int(a["count"]) for a in accessors]
        views = tree.get("bufferViews", [])
        nested = [a for a in accessors if "bufferView" not in a and "sparse" not in a]
        held = sum(int(v["byteLength"]) for v in views)
        primitives = [p for mesh in tree.get("meshes", []) for p in mesh["primitives"]]
        points = sum(counts[p["attributes"]["POSITION"]] for p in primitives)
        faces = sum(counts[p["indices"]] // 3 for p in primitives if "indices" in p)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise BadValue(f"damaged glTF: its header ({type(error).__name__}: {error})") from None
    found = Declared(GLB, max(0, *counts, points) if counts else 0, max(faces, bool(primitives)))
    check_declared(found)
    if nested or held > 2 * len(data) or min(counts, default=0) < 0:
        raise BadValue("damaged glTF: its header promises more than the file holds")
    return found


def _off(data: bytes, start: int) -> Declared:
    after = data[start : start + HEAD].splitlines()
    lines = (line.partition(b"#")[0].split() for line in after)
    counts = next((line for line in lines if line), [])
    if len(counts) < 2 or not all(c.isdigit() for c in counts[:2]):
        raise BadValue("damaged OFF: no numbers of points and faces after its first word")
    found = Declared(OFF, int(counts[0]), int(counts[1]))
    check_declared(found)
    _check_lines("OFF", data[start:], 1 + found.points + found.faces)
    return found


def _check_lines(form: str, body: bytes, promised: int) -> None:
    """Raise BadValue where a text has fewer lines than its header promises."""
    lines = body.count(b"\n") + (not body.endswith(b"\n"))
    if lines < promised:
        raise BadValue(f"truncated {form}: {promised:,} lines are promised, and it has {lines:,}")

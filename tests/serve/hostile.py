"""Requests that mean no good, made by a seed: malformed, oversized, endless, deceiving. Each is raw
bytes for a socket."""

import base64
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.serve.runs import png, wav

TYPE = b"content-type: application/json\r\n"


@dataclass(frozen=True)
class Attack:
    """send: all bytes; then: "wait" for the answer, "endless" (CHUNK again and again), "hold" (say
    no more), "hang up". fine: may also be carried out, since what was spoilt may still be a value.
    """

    kind: str
    send: bytes
    then: str = "wait"
    fine: bool = False


def post(body: bytes, path: str = "/embed", head: bytes = TYPE, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (
        path.encode(),
        head,
        said,
        body,
    )


def embedded(**record) -> bytes:
    return post(json.dumps({"records": [record]}).encode())


def form(parts: list[tuple[bytes, bytes]], boundary: bytes = b"edge") -> bytes:
    """parts: (the head of a part, its content)."""
    body = (
        b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, *part) for part in parts)
        + b"--%s--\r\n" % boundary
    )
    return post(body, head=b"content-type: multipart/form-data; boundary=%s\r\n" % boundary)


def upload(field: str, data: bytes, file: str = "x") -> bytes:
    head = f'content-disposition: form-data; name="{field}"; filename="{file}"'.encode()
    return form([(head, data)])


def of_either(rng, field: str, data: bytes) -> bytes:
    """As a form, or as base64 in JSON."""
    return (
        upload(field, data)
        if rng.random() < 0.5
        else embedded(**{field: {"base64": base64.b64encode(data).decode()}})
    )


def noise(rng, most: int = 2000) -> bytes:
    return rng.bytes(int(rng.integers(1, most)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, body: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(2**24), 9)  # 16 MiB in 16 KiB


def pixel_bomb(rng) -> bytes:
    side = int(rng.choice([9000, 30000, 65535, 2**31 - 1]))
    other = int(rng.choice([9000, 40000]))
    kind = rng.integers(4)
    if kind == 0:
        return png_of(side, other, BOMB)
    if kind == 1:
        return (
            b"GIF89a"
            + struct.pack("<HHBBB", min(side, 65535), other, 0, 0, 0)
            + b","
            + bytes(9)
            + b"\x02\x00;"
        )
    if kind == 2:
        return b"BM" + struct.pack(
            "<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, min(side, 2**30), other, 1, 24, 0, 0, 0, 0, 0, 0
        )
    frame = struct.pack(">HBHHB", 11, 8, min(other, 65535), min(side, 65535), 1) + b"\x01\x11\x00"
    return (
        b"\xff\xd8\xff\xc0"
        + frame
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
        + bytes(99)
        + b"\xff\xd9"
    )


def text_bomb(rng) -> bytes:
    body = zlib.compress(bytes(3 * 4 * 4 + 4))
    whole = png_of(4, 4, body)
    return whole[:33] + chunk(b"zTXt", b"Comment\x00\x00" + BOMB) + whole[33:]


def scans(rng, more: int = 200) -> bytes:
    """A progressive JPEG of 64 x 64 pixels whose last scan comes again and again."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * more + b"\xff\xd9"


def zip_bomb(rng) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("../../evil.npy", bytes(2**20))
    return stream.getvalue()


def npy_bomb(rng) -> bytes:
    shape = [(10**12,), (2**31, 3), (1,) * 300, (-1,), (0,), (10**400,)][rng.integers(6)]
    kind = ["<f4", "|O", "<U1000000", "|u1", "[('a', '<f4')]"][rng.integers(5)]
    kind = kind if kind.startswith("[") else repr(kind)
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) % 65536) + head + bytes(64)


def wave_lie(rng) -> bytes:
    data = bytearray(wav(samples=400))
    place, value = [
        (24, 2**31 - 1),
        (24, 0),
        (24, 1),
        (22, 65535),
        (22, 1023),
        (40, 2**31),
        (34, 7),
    ][rng.integers(7)]
    wide = "<I" if place in (24, 40) else "<H"
    struct.pack_into(wide, data, place, value)
    return bytes(data)


def polyglot(rng) -> bytes:
    heads = [
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='x'/>",
        b"#!/bin/sh\n",
        b"MZ",
        zip_bomb(rng),
    ]
    return heads[rng.integers(len(heads))] + png(int(rng.integers(9))) + zip_bomb(rng)


def spoilt(rng, data: bytes) -> bytes:
    """Some bytes changed, or the end lost."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
        changed[place] = rng.integers(256)
    return bytes(changed[: int(rng.integers(1, len(data)))] if rng.random() < 0.5 else changed)


PATHS = [
    *(
        "../../../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "\\\\host\\share",
        "C:\\x.png",
    ),
    *("http://127.0.0.1/x.png", "~/.ssh/id", "x\0.png"),
]
FIELDS = ("image", "sound", "text", "cells", "curve", "visits")


def wrong(rng) -> object:
    """What no field takes."""
    path = PATHS[rng.integers(len(PATHS))]
    values = [
        path,
        {"path": path},
        {"bytes": path},
        {"base64": path},
        {"base64": 3},
        True,
        7,
        10**300,
        [],
        {},
        [[]],
        [{}],
        [[["a"]]],
    ]
    return values[rng.integers(len(values))]


def deep(rng) -> bytes:
    depth = int(rng.choice([6, 100, 5000, 60_000]))
    inside = (
        b"[" * depth + b"]" * depth
        if rng.random() < 0.5
        else b'{"a":' * depth + b"1" + b"}" * depth
    )
    return post(b'{"records": [{"%s": %s}]}' % (FIELDS[rng.integers(3, 6)].encode(), inside))


def numbers(rng) -> bytes:
    said = [b"NaN", b"-Infinity", b"1e", b"0x10", b"1" * 5000, b"--1", b"01"][rng.integers(7)]
    return post(b'{"records": [{"curve": [[%s, 1]]}]}' % said)


def not_json(rng) -> bytes:
    whole = json.dumps({"records": [{"text": "a", "cells": {"age": 1}}]}).encode()
    kind = rng.integers(4)
    if kind == 0:
        return post(whole[: int(rng.integers(0, len(whole)))])
    if kind == 1:
        return post(noise(rng))
    return post(
        [
            b'{"records": [{"text": "a", "text": "b"}]}',
            b"\xef\xbb\xbf{",
            b'"records"',
            b"[]",
            b"{}",
            b"null",
        ][rng.integers(6)]
    )


def large_json(rng) -> bytes:
    body = [
        b"[" + b"[]," * 299_000 + b"[]]",
        b"[" + b"0," * 400_000 + b"0]",
        b'"' + b"a" * 900_000 + b'"',
    ][rng.integers(3)]
    return post(
        b'{"records": [{"%s": %s}]}' % ([b"curve", b"visits", b"text"][rng.integers(3)], body)
    )


def bad_form(rng) -> bytes:
    text = b'content-disposition: form-data; name="text"'
    kind = rng.integers(8)
    if kind == 0:
        return post(
            b"--edge\r\n" + text + b"\r\n\r\nab", head=b"content-type: multipart/form-data\r\n"
        )
    if kind == 1:
        return form([(text, b"a")] * 2)
    if kind == 2:
        return form([(text, b"a")] * 3000)
    if kind == 3:
        return form([(b"content-disposition: form-data", b"a")])
    if kind == 4:
        return form([(b'content-disposition: form-data; name="' + noise(rng, 50) + b'"', b"a")])
    if kind == 5:
        return form([(text + b"\r\nx-long: " + b"y" * 100_000, b"a")])
    if kind == 6:
        return form([(text, b"a")], boundary=b"b" * 5000)
    return post(noise(rng), head=b"content-type: multipart/form-data; boundary=edge\r\n")


def bad_http(rng) -> bytes:
    start = b"GET /health HTTP/1.1\r\nhost: x\r\n"
    lines = [
        noise(rng) + b"\r\n\r\n",
        b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET  /health\r\n\r\n",
        start + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        start + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        start + b"content-length: -5\r\n\r\n",
        start + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        start + b"content-length: 99999999999999999999999\r\n\r\n",
        start + b"x\x00y: z\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nhost: x\r\n"
        + TYPE
        + b"transfer-encoding: chunked\r\n\r\nZZZ\r\nabc\r\n0\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nhost: x\r\n"
        + TYPE
        + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(rng) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    return lines[rng.integers(len(lines))]


def bad_path(rng) -> bytes:
    paths = [
        *(
            "/records/../../etc/passwd",
            "/records/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "/records//etc/passwd",
            "/../../etc/passwd",
        ),
        *(
            "/records/%00",
            "/records/%ff%fe",
            "/docs/../../x",
            "/static/../api.py",
            "/.git/config",
            "//etc/passwd",
        ),
        *(
            "/records?start=-1",
            "/records?count=0",
            "/records?count=1e9",
            "/records?start=99999999999999999999",
            "/records?where=x",
        ),
        *(
            "/records?where=colour=" + "r" * 9000,
            "/records?where=%00=%00",
            "/records/" + "k" * 9000,
            "/embed",
            "/search",
        ),
    ]
    return f"GET {paths[rng.integers(len(paths))]} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def bad_query(rng) -> bytes:
    asks = [
        "k=0",
        "k=-3",
        "k=99999999",
        "k=x",
        "fields=nose",
        "where=colour=green",
        "where=colour",
        "weight=text=nan",
        "weight=text=1e99",
    ]
    asks += [
        "weight=image=1",
        "weight=text=0",
        "fields=",
        "where=colour=" + "x" * 5000,
        "k=" + "9" * 5000,
    ]
    return post(b'{"text": "a"}', path=f"/search?{asks[rng.integers(len(asks))]}")


def bad_head(rng) -> bytes:
    body = json.dumps({"records": [{"text": "a"}]}).encode()
    heads = [
        (gzip.compress(body), TYPE + b"content-encoding: gzip\r\n"),
        (BOMB, TYPE + b"content-encoding: deflate\r\n"),
        (body, b"content-type: text/plain\r\n"),
        (body, b"content-type: application/x-www-form-urlencoded\r\n"),
        (body, b"content-type: application/x-python-pickle\r\n"),
        (body, b""),
        (body, b"content-type: " + b"a" * 5000 + b"\r\n"),
    ]
    data, head = heads[rng.integers(len(heads))]
    return post(data, head=head)


CHUNK = b"1000\r\n" + b"a" * 4096 + b"\r\n"


def endless(rng) -> Attack:
    start = b"POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    kinds = [
        start + TYPE + b"\r\n",
        start + b"content-type: multipart/form-data; boundary=edge\r\n\r\n",
        start.replace(b"POST /embed", b"GET /records") + b"\r\n",
        start.replace(b"POST /embed", b"GET /health") + b"\r\n",
        start.replace(b"POST /embed", b"POST /nowhere") + b"\r\n",
        start + TYPE + b"expect: 100-continue\r\n\r\n",
    ]
    return Attack("endless", kinds[rng.integers(len(kinds))] + CHUNK, "endless", fine=True)


def slow(rng) -> Attack:
    kinds = [
        b"",
        b"GET /health HTTP/1.1\r\nhost:",
        post(b'{"records": [', length=5000),
        b"POST /embed HTTP/1.1\r\nhost: x\r\n"
        + TYPE
        + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    ]
    return Attack("slow", kinds[rng.integers(len(kinds))], "hold")


def hang_up(rng) -> Attack:
    whole = upload("image", png(1))
    return Attack("hung up", whole[: int(rng.integers(1, len(whole)))], "hang up")


SURE: dict[str, Callable] = {
    "pixel bomb": lambda r: of_either(r, "image", pixel_bomb(r)),
    "text bomb": lambda r: of_either(r, "image", text_bomb(r)),
    "scans": lambda r: of_either(r, "image", scans(r)),
    "zip bomb": lambda r: of_either(r, ["image", "sound", "curve"][r.integers(3)], zip_bomb(r)),
    "npy bomb": lambda r: of_either(r, ["image", "sound", "curve"][r.integers(3)], npy_bomb(r)),
    "polyglot": lambda r: of_either(r, "image", polyglot(r)),
    "noise": lambda r: of_either(r, ["image", "sound"][r.integers(2)], noise(r)),
    "wrong type": lambda r: embedded(**{FIELDS[r.choice([0, 1, 3, 4, 5])]: wrong(r)}),
    "no text": lambda r: embedded(
        text=[7, True, [], {}, "", " ", "\ud800", {"base64": ""}][r.integers(8)]
    ),
    "deep": deep,
    "numbers": numbers,
    "not JSON": not_json,
    "large JSON": large_json,
    "bad form": bad_form,
    "bad path": bad_path,
    "bad query": bad_query,
    "bad head": bad_head,
    "too large": lambda r: post(
        bytes(3 * 2**20),
        head=[TYPE, b"content-type: multipart/form-data; boundary=edge\r\n"][r.integers(2)],
    ),
    "huge cells": lambda r: embedded(curve=["a" * 200_000] + ["1"] * 100_000),
    "many records": lambda r: post(json.dumps({"records": [{"text": "a"}] * 5000}).encode()),
    "method": lambda r: post(b"", path="/embed").replace(
        b"POST", [b"PUT", b"TRACE", b"CONNECT", b"EVIL"][r.integers(4)], 1
    ),
}
MAYBE: dict[str, Callable] = {
    "spoilt picture": lambda r: of_either(r, "image", spoilt(r, png(int(r.integers(9))))),
    "spoilt sound": lambda r: of_either(r, "sound", spoilt(r, wav(samples=400))),
    "lying sound": lambda r: of_either(r, "sound", wave_lie(r)),
    "spoilt request": lambda r: spoilt(r, upload("image", png(1))),
    "huge numbers": lambda r: embedded(
        curve=[[10**300, -(10**300)], [3e38, 1e39]], cells={"age": 10**400}
    ),
    "picture and zip": lambda r: of_either(r, "image", png(1) + zip_bomb(r)),
    "bad HTTP": bad_http,
}


def attacks(count: int, seed: int) -> list[Attack]:
    """One in fifty does not end by itself."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        if rng.random() < 0.04:
            made.append((endless, slow, hang_up)[rng.integers(3)](rng))
            continue
        fine = rng.random() < 0.25
        kinds = MAYBE if fine else SURE
        kind = list(kinds)[rng.integers(len(kinds))]
        made.append(
            Attack(kind, kinds[kind](rng), "wait" if kind != "spoilt request" else "hold", fine)
        )
    return made

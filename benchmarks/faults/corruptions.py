"""Good files of every kind, and ways in which they go bad."""

from __future__ import annotations

import gzip
import io
import json
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import soundfile
from PIL import Image

Make = Callable[[np.random.Generator], bytes]


def picture(format: str, **options) -> Make:
    def make(rng: np.random.Generator) -> bytes:
        ramp = np.linspace(0, 200, 24)[:, None, None] + rng.integers(0, 50, (24, 32, 3))
        file = io.BytesIO()
        Image.fromarray(ramp.astype(np.uint8)).save(file, format, **options)
        return file.getvalue()

    return make


def sound(format: str, subtype: str | None = None, rate: int = 8000) -> Make:
    def make(rng: np.random.Generator) -> bytes:
        file = io.BytesIO()
        tone = 0.3 * np.sin(np.arange(rate // 2) * rng.uniform(0.1, 0.5)) + rng.normal(
            0, 0.02, rate // 2
        )
        soundfile.write(file, tone, rate, format=format, subtype=subtype)
        return file.getvalue()

    return make


def array(packed: str = "") -> Make:
    def make(rng: np.random.Generator) -> bytes:
        file, values = io.BytesIO(), rng.normal(5, 2, (40, 2)).astype(np.float32)
        if not packed:
            np.save(file, values)
        elif packed == "zip":
            np.savez_compressed(file, x=values[:, 0], y=values[:, 1])
        else:
            np.savez(file, x=values[:, 0], y=values[:, 1])
        return file.getvalue()

    return make


def columns(delimiter: str) -> Make:
    def make(rng: np.random.Generator) -> bytes:
        rows = [
            f"{i * 0.1:.1f}{delimiter}{a:.3f}{delimiter}{b:.3f}"
            for i, (a, b) in enumerate(rng.normal(5, 2, (40, 2)))
        ]
        return "\n".join([delimiter.join(("time", "x", "y")), *rows, ""]).encode()

    return make


def words(encoding: str) -> Make:
    return lambda rng: " ".join(
        rng.choice(["ein", "schöner", "Tag", "am", "Meer", "λόγος"], 20)
    ).encode(encoding)


def row(rng: np.random.Generator) -> bytes:
    return json.dumps(
        {
            "age": int(rng.integers(90)),
            "colour": str(rng.choice(["red", "blue"])),
            "height": rng.normal(),
        }
    ).encode()


def events(rng: np.random.Generator) -> bytes:
    times = rng.exponential(1, 12).cumsum()
    return json.dumps(
        [
            {"time": round(t, 3), "item": str(rng.choice(["tea", "milk"])), "price": 2.5}
            for t in times
        ]
    ).encode()


def fasta(rng: np.random.Generator) -> bytes:
    return (">one\n" + "".join(rng.choice(list("ACGT"), 120)) + "\n").encode()


def raster(rng: np.random.Generator) -> bytes:
    """A GeoTIFF of three bands with a place, a day and a value for no data."""
    import rasterio
    from rasterio.io import MemoryFile

    pixels = rng.integers(1, 10_000, (3, 16, 12), dtype=np.uint16)
    pixels[0, :4] = 0
    with MemoryFile() as file:
        with file.open(
            driver="GTiff", width=12, height=16, count=3, dtype="uint16", nodata=0,
            crs="EPSG:32632", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
            compress="deflate",
        ) as scene:  # fmt: skip
            scene.write(pixels)
            scene.update_tags(TIFFTAG_DATETIME="2024:03:31 10:20:30")
        return bytes(file.read())


def stack(rng: np.random.Generator) -> bytes:
    """Three bands without names at two dates, in an .npz."""
    out = io.BytesIO()
    pixels = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.savez(out, values=pixels, dates=np.array(["2024-03-31", "2024-06-30"]))
    return out.getvalue()


def scan(packed: bool) -> Make:
    """Points of LAS 1.4, or LAZ."""

    def make(rng: np.random.Generator) -> bytes:
        import laspy

        file = laspy.create(point_format=7, file_version="1.4")
        file.header.offsets, file.header.scales = [500_000, 5_000_000, 100], [0.001] * 3
        file.x, file.y, file.z = rng.normal(size=(3, 200)) + [[500_000], [5_000_000], [100]]
        file.intensity, file.classification = rng.integers(1, 200, 200), rng.integers(0, 9, 200)
        out = io.BytesIO()
        file.write(out, do_compress=packed)
        return out.getvalue()

    return make


def mesh(ending: str) -> Make:
    """A box of any sides."""

    def make(rng: np.random.Generator) -> bytes:
        import trimesh

        made = trimesh.creation.box(rng.uniform(1, 2, 3)).export(file_type=ending)
        return made if isinstance(made, bytes) else made.encode()

    return make


def head(packed: bool) -> Make:
    """A scan in NIfTI, turned and of voxels that are no cubes."""

    def make(rng: np.random.Generator) -> bytes:
        from tests.modalities.scans import nifti

        affine = np.diag([1.0, 1.5, 2.0, 1.0])[[1, 0, 2, 3]]
        return nifti(rng.normal(size=(6, 7, 8)).astype(np.float32), affine, packed)

    return make


def coordinates(rng: np.random.Generator) -> bytes:
    """Lines of x, y, z and intensity."""
    rows = rng.normal(size=(60, 4)).round(3).tolist()
    return "\n".join(" ".join(map(str, row)) for row in rows).encode()


GOOD: dict[str, dict[str, Make]] = {
    "image": {
        ".png": picture("png"),
        ".jpg": picture("jpeg"),
        ".webp": picture("webp"),
        ".gif": picture("gif"),
        ".bmp": picture("bmp"),
        ".tif": picture("tiff", compression="tiff_deflate"),
        ".tiff": picture("tiff"),
        ".ppm": picture("ppm"),
        ".jp2": picture("jpeg2000"),
    },
    "audio": {
        ".wav": sound("WAV"),
        ".flac": sound("FLAC"),
        ".ogg": sound("OGG"),
        ".opus": sound("OGG", "OPUS"),
        ".mp3": sound("MP3"),
        ".aiff": sound("AIFF"),
        ".au": sound("AU"),
    },
    "text": {".txt": words("utf-8"), ".md": words("utf-16")},
    "series": {".csv": columns(","), ".tsv": columns("\t"), ".npy": array(), ".npz": array("zip")},
    "table": {".json": row},
    "raster": {".gtiff": raster, ".npz": stack},
    "events": {".events": events},
    "sequence": {".fa": fasta},
    "points": {
        ".las": scan(packed=False),
        ".laz": scan(packed=True),
        **{f".{ending}": mesh(ending) for ending in ("ply", "obj", "stl", "off", "glb")},
        ".xyz": coordinates,
    },
    "volume": {".nii": head(packed=False), ".nii.gz": head(packed=True)},
}
"""modality -> ending -> a good file"""

CHECKED = {".png": 0, ".flac": 42, ".ogg": 0, ".opus": 0, ".npz": 0, ".nii.gz": 0}
"""Formats whose checksums cover what is decoded behind so many bytes: a value that comes out
changed must be noticed. The first 42 of FLAC, with the rate and the number of samples, have none.
"""


# Ways to go bad: (content, rng) -> content


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def one_bit(data: bytes, rng: np.random.Generator) -> bytes:
    return flipped(data, rng.integers(0, 8 * len(data), 1))


def bits(data: bytes, rng: np.random.Generator) -> bytes:
    return flipped(data, rng.integers(0, 8 * len(data), int(rng.integers(2, 33))))


def header(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits among the first 64 bytes, where sizes are."""
    return flipped(data, rng.integers(0, 8 * min(64, len(data)), int(rng.integers(1, 5))))


def flipped(data: bytes, places) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[int(place) // 8] ^= 1 << int(place) % 8
    return bytes(changed)


def zero_block(data: bytes, rng: np.random.Generator) -> bytes:
    """As a disk leaves a file whose blocks were never written."""
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, max(2, len(data) // 2))))
    return data[:start] + bytes(stop - start) + data[stop:]


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    return bytes(len(data))


def empty(data: bytes, rng: np.random.Generator) -> bytes:
    return b""


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(len(data))


def extended(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 100)))


def twice(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at // 2 :]


CORRUPTIONS = (truncated, one_bit, bits, header, zero_block, zeros, empty, noise, extended, twice)


# Bombs: small files that ask for much


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side // 8 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0xF0, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x02\x02D\x01\x00;"
    )


def npz_bomb(times: int = 5) -> bytes:
    """Five quarters of a GiB of zeros in six MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (times * 2**26,)}
            )
            for _ in range(times * 16):
                member.write(bytes(2**24))
    return file.getvalue()


def npy_bomb(count: int = 2**40) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (count, 2)}
    )
    return file.getvalue() + bytes(64)


def wav_bomb(rate: int) -> bytes:
    """Says it has one sample a second, or four billion."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        (
            sound.setnchannels(1),
            sound.setsampwidth(2),
            sound.setframerate(8000),
            sound.writeframes(bytes(20_000)),
        )
    data = bytearray(file.getvalue())
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


def flac_bomb() -> bytes:
    """A good file whose header says 68 billion samples of eight channels."""
    data = bytearray(sound("FLAC")(np.random.default_rng(0)))
    data[20] = data[20] & 0xF1 | 0x0E
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    return bytes(data)


def deep(bracket: bytes = b"[") -> bytes:
    return bracket * 200_000


def digits() -> bytes:
    return b'{"age": ' + b"9" * 100_000 + b"}"


def lonely_names(count: int = 20_000) -> bytes:
    """Events with a field of their own each: quadratic, if every event gets a cell for every field."""
    return json.dumps([{"time": i, f"f{i}": 1} for i in range(count)]).encode()


def scan_bomb(packed: bool) -> bytes:
    """A scan that promises a billion points."""
    data = bytearray(scan(packed)(np.random.default_rng(0)))
    struct.pack_into("<Q", data, 247, 10**9)
    return bytes(data)


def head_bomb(packed: bool) -> bytes:
    """A scan whose header promises 30,000 voxels along each axis."""
    data = bytearray(head(packed=False)(np.random.default_rng(0)))
    struct.pack_into("<3h", data, 42, 30_000, 30_000, 30_000)
    return gzip.compress(bytes(data)) if packed else bytes(data)


def raster_bomb() -> bytes:
    """A GeoTIFF of ten thousand million pixels, of which none is written."""
    import rasterio
    from rasterio.io import MemoryFile

    with MemoryFile() as file:
        with file.open(
            driver="GTiff", width=100_000, height=100_000, count=1, dtype="uint8",
            crs="EPSG:32632", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
            tiled=True, blockxsize=8192, blockysize=8192, compress="deflate", sparse_ok=True,
        ):  # fmt: skip
            pass
        return bytes(file.read())


BOMBS: dict[str, dict[str, Callable[[], bytes]]] = {
    "image": {
        ".png": lambda: png_bomb(30_000),
        ".gif": gif_bomb,
        ".npy": npy_bomb,
        ".npz": npz_bomb,
    },
    "audio": {
        ".wav": lambda: wav_bomb(1),
        ".aiff": lambda: wav_bomb(2**32 - 1),
        ".flac": flac_bomb,
        ".au": npy_bomb,
    },
    "text": {".txt": lambda: b"\xff\xfe" + b"\x00\xd8" * 1000, ".md": lambda: b"word " * 2_000_000},
    "series": {
        ".npz": npz_bomb,
        ".npy": npy_bomb,
        ".csv": lambda: b",".join(b"a%d" % i for i in range(50_000)) + b"\n",
        ".tsv": lambda: b"x\ty\n" + b"1" * 3_000_000,
    },
    "table": {".json": digits},
    "events": {".events": lonely_names},
    "sequence": {".fa": lambda: b">x\n" + b"ACGT\n" * 1_000_000},
    "raster": {".gtiff": raster_bomb, ".npz": npz_bomb},
    "points": {
        ".las": lambda: scan_bomb(packed=False),
        ".laz": lambda: scan_bomb(packed=True),
        ".ply": lambda: b"ply\nformat ascii 1.0\nelement vertex 1000000000\nend_header\n",
        ".off": lambda: b"OFF\n1000000000 1000000000 0\n0 0 0\n",
    },
    "volume": {
        ".nii": lambda: head_bomb(packed=False),
        ".nii.gz": lambda: head_bomb(packed=True),
    },
}
"""modality -> ending -> a file that asks for far more than it is; what can be cut off may also be
read."""
MORE_BOMBS = {
    "table": {".json": deep, ".JSON": lambda: deep(b'{"a":')},
    "events": {".events": deep},
}

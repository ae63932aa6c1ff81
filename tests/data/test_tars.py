"""The quick listing of a tar says what tarfile says, or leaves it to tarfile."""

import io
import random
import tarfile

import pytest

from amodal.core import AmodalError
from amodal.data.readers import _tar

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def tar(path, names, format=tarfile.USTAR_FORMAT, **about):
    with tarfile.open(path, "w", format=format) as out:
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if name.endswith("/") else 300 * i
            for key, value in about.items():
                setattr(member, key, value)
            out.addfile(member, io.BytesIO(bytes([65 + i]) * member.size))
    return path


def listed(path, monkeypatch, quickly):
    """members, or the error; quickly: whether the quick listing may be used."""
    with monkeypatch.context() as patch:
        if not quickly:
            patch.setattr(_tar, "_plain", re_fuse)
        try:
            return _tar.members(path)
        except AmodalError as error:
            return str(error)


def re_fuse(*_):
    raise _tar.Unusual


NAMES = [
    "./a.jpg",
    "a.txt",
    "folder/",
    "folder/b.jpg",
    "folder/.hidden",
    "ü.txt",
    "d" * 60 + "/" + "e" * 80,
    "empty",
]


@pytest.mark.parametrize("format", FORMATS)
def test_plain_tars_are_listed_quickly_and_alike(tmp_path, monkeypatch, format):
    names = (
        NAMES
        if format == tarfile.USTAR_FORMAT
        else [n for n in NAMES if n.isascii() and len(n) < 100]
    )
    path = tar(
        tmp_path / "a.tar", names, format, mode=0o755, uid=1000, mtime=1_700_000_000, uname="me"
    )
    with monkeypatch.context() as patch:
        patch.setattr(_tar, "_by_tarfile", re_fuse)
        quick = _tar.members(path)
    assert quick == listed(path, monkeypatch, quickly=False)
    assert [name for name, *_ in quick] == [
        n.removeprefix("./") for n in names if n[-1] != "/" and ".hidden" not in n
    ]


@pytest.mark.parametrize(
    "about", [{"mtime": 1.5}, {"type": tarfile.SYMTYPE, "linkname": "x"}, {"uid": 2**40}]
)
def test_unusual_tars_are_listed_by_tarfile(tmp_path, monkeypatch, about):
    path = tar(tmp_path / "a.tar", ["a.jpg", "b.jpg", "l" * 200], tarfile.PAX_FORMAT, **about)
    with pytest.raises(_tar.Unusual):
        list(_tar._plain(path))
    assert listed(path, monkeypatch, quickly=True) == listed(path, monkeypatch, quickly=False)


def test_damaged_tars_are_reported_alike(tmp_path, monkeypatch):
    whole, chance = tar(tmp_path / "a.tar", NAMES).read_bytes(), random.Random(0)
    heads = [
        offset
        for offset in range(0, len(whole), 512)
        if whole[offset + 257 : offset + 262] == b"ustar"
    ]
    errors = 0
    for _ in range(300):
        content = bytearray(whole)
        offset = chance.choice(heads) + chance.choice(
            (chance.randrange(512), chance.randrange(100, 160))
        )
        content[offset : offset + chance.choice((1, 1, 8, 512))] = bytes([chance.randrange(256)])
        path = tmp_path / "damaged.tar"
        path.write_bytes(content[: chance.choice((len(content), chance.randrange(len(content))))])
        quick = listed(path, monkeypatch, quickly=True)
        assert quick == listed(path, monkeypatch, quickly=False)
        errors += isinstance(quick, str)
    assert errors > 200


def test_sizes_that_lead_elsewhere_end_a_listing(tmp_path):
    """Under a right checksum: before the first byte, into another member, beyond any file."""
    whole, chance = tar(tmp_path / "a.tar", NAMES).read_bytes(), random.Random(0)
    heads = [o for o in range(0, len(whole), 512) if whole[o + 257 : o + 262] == b"ustar"]
    path = tmp_path / "damaged.tar"
    for _ in range(300):
        content = bytearray(whole)
        start = chance.choice(heads)
        head = memoryview(content)[start : start + 512]
        size = chance.randrange(2 ** chance.randrange(9, 80)) * chance.choice((1, -1))
        head[124:136] = size.to_bytes(12, "big", signed=True)
        head[156:157] = chance.choice(b"0125LKxg").to_bytes(1, "big")
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        path.write_bytes(content)
        try:
            _tar.members(path)
        except AmodalError as error:
            assert "damaged at byte" in str(error) or "holes" in str(error)
        files, lost = _tar.recovered(path)
        assert all(0 <= a < b <= len(content) for a, b in lost)
        assert all(0 < begin <= begin + size <= len(content) for _, begin, size in files)

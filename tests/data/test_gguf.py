"""GGUF files: metadata and tensors of each type, and what damaged ones are answered with."""

import random
import struct

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.data.gguf import TYPES, GgufFile
from tests.data.gguf_files import written

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
METADATA = {
    "name": "a model",
    "count": 7,
    "rate": 0.5,
    "is_it": True,
    "words": ["a", "ü", ""],
    "kinds": np.array([3, -1]),
}


def made(kind, blocks, seed=0):
    """Bytes of blocks with plain scales, and what they are worth by their definition."""
    rng, raw, worth = random.Random(seed), b"", []
    for _ in range(blocks):
        scale, least = rng.choice([0.25, -1.5, 2.0]), rng.choice([-3.0, 0.5])
        if kind == Q4_1:
            nibbles = [rng.randrange(16) for _ in range(32)]
            packed = [nibbles[i] + 16 * nibbles[i + 16] for i in range(16)]
            raw += struct.pack("<ee16B", scale, least, *packed)
            worth += [n * scale + least for n in nibbles]
        elif kind == Q8_0:
            bytes_of = [rng.randrange(-128, 128) for _ in range(32)]
            raw += struct.pack("<e32b", scale, *bytes_of)
            worth += [b * scale for b in bytes_of]
        else:
            raw += struct.pack("<f" if kind == F32 else "<e", scale)
            worth.append(scale)
    return raw, worth


def tiny():
    """Two tensors of each type that is read, and their values."""
    tensors, worth = {}, {}
    for kind, blocks in ((F32, 6), (F16, 6), (Q4_1, 4), (Q8_0, 4)):
        for shape in ((blocks * TYPES[kind].weights,), (2, blocks // 2 * TYPES[kind].weights)):
            name = f"{TYPES[kind].name}.{len(shape)}"
            raw, values = made(kind, blocks, len(shape))
            tensors[name], worth[name] = (shape, kind, raw), np.reshape(values, shape)
    return written(METADATA, tensors), worth


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_is_read(version):
    file = GgufFile(written(METADATA, {}, version=version))
    assert list(file.metadata) == list(METADATA)
    for key, value in file.metadata.items():
        assert type(value) is type(METADATA[key])
        assert np.array_equal(value, METADATA[key])


def test_each_type_of_tensors_is_dequantised_by_its_definition():
    content, worth = tiny()
    file = GgufFile(content)
    assert list(file.tensors) == list(worth) and len(worth) == 2 * len(TYPES)
    for name, values in worth.items():
        array = file.array(name)
        assert array.dtype == np.float32 and array.shape == values.shape
        np.testing.assert_array_equal(array, values, err_msg=name)
    with pytest.raises(AmodalError, match="no tensor 'Q4_1.3'"):
        file.array("Q4_1.3")


def test_places_are_multiples_of_the_alignment_in_the_metadata():
    raw = {"a": ((1,), F32, struct.pack("<f", 4)), "b": ((1,), F32, struct.pack("<f", 5))}
    file = GgufFile(written({"general.alignment": 8}, raw, step=8))
    assert (file.array("a").item(), file.array("b").item()) == (4, 5)


def test_a_file_that_is_cut_off_anywhere_is_an_error():
    content, _ = tiny()
    end = max(t.start + t.bytes for t in GgufFile(content).tensors.values())
    for size in range(end):
        with pytest.raises(AmodalError, match="is no GGUF file|is damaged"):
            GgufFile(content[:size])


def test_changed_bytes_are_read_or_refused():
    """Nothing but AmodalError, and no array that is larger than the file says."""
    content, _ = tiny()
    head, rng = min(t.start for t in GgufFile(content).tensors.values()), random.Random(0)
    refused = 0
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(head)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        try:
            file = GgufFile(bytes(changed))
        except AmodalError:
            refused += 1
            continue
        assert sum(file.array(name).size for name in file.tensors) <= 4 * len(content)
    assert refused > 1000


def head(tensors=0, entries=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name=b"t", sides=(1,), kind=F32, place=0):
    parts = struct.pack("<Q", len(name)) + name
    return parts + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, place)


KEY = struct.pack("<Q", 1) + b"k"
NESTED = KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no GGUF file: it begins with b''"),
        (b"PK\3\4" + bytes(100), "is no GGUF file"),
        (head(version=1), "version 1; little-endian files of version 2 or 3 are read"),
        (head(version=3 << 24), f"version {3 << 24};"),
        (head(tensors=2**63) + bytes(99), f"claims {2**63} tensors, more than its bytes"),
        (head(entries=2**40) + bytes(99), f"claims {2**40} entries of metadata"),
        (head(0, 1) + struct.pack("<Q", 2**62) + bytes(99), f"{2**62} bytes are asked for"),
        (head(0, 1) + KEY + struct.pack("<I", 13) + bytes(9), "type 13, which there is not"),
        (head(0, 1) + KEY + struct.pack("<IIQ", 9, 8, 2**50), f"claims {2**50} texts"),
        (head(0, 1) + KEY + struct.pack("<IIQ", 9, 12, 2**61), f"claims {2**61} numbers"),
        (head(0, 1) + NESTED, "values of type 9, not numbers or texts"),
        (head(0, 1) + KEY + struct.pack("<IQ", 8, 1) + b"\xff", "not UTF-8"),
        (head(0, 2) + (KEY + struct.pack("<I?", 7, True)) * 2, "the key 'k' stands twice"),
        (head(1) + tensor(sides=()) + bytes(99), "'t' has 0 sides, not 1 to 4"),
        (head(1) + tensor(sides=(1,) * 5) + bytes(99), "'t' has 5 sides"),
        (head(1) + tensor(sides=(2**63, 2**63)) + bytes(99), f"'t' has {2**128} bytes from"),
        (head(1) + tensor(sides=(0, 4)) + bytes(99), r"sides \[0, 4\]"),
        (head(1) + tensor(sides=(16, 2), kind=Q4_1) + bytes(99), "a multiple of 32"),
        (head(1) + tensor(kind=14) + bytes(99), r"of type 14; those that are read are F32 \(0\)"),
        (head(1) + tensor(place=4) + bytes(99), r"from byte 68 on.* \(places are multiples of 32"),
        (head(1) + tensor(place=2**63) + bytes(99), "4 bytes from byte"),
        (head(2) + tensor() * 2 + bytes(99), "the tensor 't' stands twice"),
        (head(2) + tensor() + tensor(b"u") + bytes(99), "'t' and 'u' lie in one another"),
    ],
)
def test_what_is_wrong_is_one_sentence(content, message):
    with pytest.raises(AmodalError, match=message):
        GgufFile(content, "model.gguf")


@pytest.mark.parametrize("step", [0, 2.5, "32"])
def test_an_alignment_is_a_number_of_bytes(step):
    with pytest.raises(AmodalError, match="general.alignment is .* not a number of bytes"):
        GgufFile(written({"general.alignment": step}, {}))

"""Source names. A source is a field, or one view of it: `image`, `image:1`, `image:2`."""

import hashlib


def field_of(source: str) -> str:
    """`image:2` -> `image`."""
    return source.partition(":")[0]


def view_of(source: str) -> int:
    """`image:2` -> 2; `image` -> 0."""
    return int(source.partition(":")[2] or 0)


def views_of(field: str, count: int) -> list[str]:
    """The sources of `count` views of a field: `image` for one, else `image:1`, `image:2`, …"""
    return [field] if count == 1 else [f"{field}:{number}" for number in range(1, count + 1)]


def name_code(name: str) -> int:
    """A 63-bit hash of a name, the same in every process."""
    # >> 1, since int64 tensors hold 63 bits without the sign
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1

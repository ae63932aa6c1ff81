"""Groups of the bands of a raster, each of which has tokens of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amodal.core import AmodalError, unknown

Groups = Mapping[str, Sequence[str]]
"""Name -> bands."""


def check(bands: Sequence[str], groups: Groups, by_band: bool) -> None:
    """Check groups as a schema declares them.

    Args:
        bands: of the raster.
        groups: name -> bands.
        by_band: whether every band is a group by itself.

    Raises:
        AmodalError: an unknown band, one of two groups, an empty group, one with the name of a
            band that is not in it, and groups together with `by_band`.
    """
    if by_band and groups:
        raise AmodalError(
            "raster.by_band makes every band a group by itself, and raster.groups has others: "
            "leave one of them out"
        )
    of: dict[str, str] = {}
    for name, members in groups.items():
        if not members:
            raise AmodalError(
                f"raster.groups.{name} has no band; name one or more, or leave it out"
            )
        for band in members:
            if band not in bands:
                raise unknown("band of this raster", band, bands, f"It is of the group {name!r}.")
            if band in of:
                raise AmodalError(
                    f"raster.groups: the band {band!r} is of the groups {of[band]!r} and {name!r}; "
                    "a band is of one group at most"
                )
            of[band] = name
    for name in groups:
        if name in bands and of.get(name) != name:
            raise AmodalError(
                f"raster.groups.{name} has the name of a band that is not in it; call the group by "
                "another name"
            )


def numbered(bands: Sequence[str], groups: Groups, by_band: bool) -> dict[str, tuple[int, ...]]:
    """Name of each group -> the numbers of its bands, those that are declared first.

    Args:
        bands, groups, by_band: as for `check`.
    """
    if not groups and not by_band:
        return {}
    declared = {name: tuple(map(list(bands).index, members)) for name, members in groups.items()}
    taken = {number for members in declared.values() for number in members}
    return declared | {b: (i,) for i, b in enumerate(bands) if i not in taken}

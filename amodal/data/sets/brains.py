"""Brains: blocks of three heads in MR, two human and a macaque, with maps of tissue and regions.

`scan` is a block of 32 x 32 x 32 voxels of a T1-weighted scan: `colin`, one man averaged over 27
scans (1 mm, with skull); `mni`, the mean of 152 heads (1 mm, brain alone); and `macaque`, the mean
of 19 monkeys (0.5 mm, brain alone). Intensities are divided by the percentile 99.5 of each head.
Maps lie on the grid of the scan: `tissue` of `mni` (1 grey, 2 white matter, 0 else), `regions` of
`colin` (AAL's 116, left and right as one: 62 numbers) and `macaque_regions` (the 40 largest of
INIA19, left and right as one; 255 elsewhere in the brain). Parts are hemispheres: the left one is
for training, so that every region is in it, and blocks of the right one are for validation and
test. Both halves are of one head, and a mirror image of the other: a score says how well maps are
read in the other half, not in another person.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amodal.data.fetch import Debian, Pypi
from amodal.data.sets.shared.archives import deb, wheel
from amodal.data.sets.shared.scans import SIDE, Head, by_block, scan
from amodal.data.sets.shared.writing import describe, field, records
from amodal.modalities.shared.rasters import UNKNOWN

PACKAGES = (
    Debian(
        "mricron-data",
        "1.2.20211006+dfsg-6",
        "b1df2400a9b2c0bed54fa01a7d9d45d8f72a1997d6789250e1a920af42b9c248",
        16.1,
    ),
    Pypi(
        "nilearn",
        "0.14.1",
        "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        11.5,
    ),
)
LICENCE = "packages: BSD-3-Clause; the templates and atlases in them have terms of their own"
RECORDS = 360
TEMPLATES = "usr/share/mricron/templates/"
MNI = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
PAIRED = 108
"""Numbers of AAL up to here are a left and a right region in turn; those after it lie between."""
RIGHT = 1000
"""What INIA19 adds to the number of a region on the right."""
LARGEST = 40
"""Regions of INIA19 that count."""
HALF = 127
"""Of 255: a voxel is mostly of a tissue."""


def write(out: Path, archives: list[Path]) -> None:
    files = {p.removeprefix(TEMPLATES): c for p, c in deb(archives[0], TEMPLATES)}
    columns = by_block([_colin(files), _mni(archives[1]), _macaque(files)])
    records(out, columns)
    sides = {"size": [SIDE] * 3, "patch": [SIDE // 8] * 3, "spacing": [1.0] * 3}
    fields = {"scan": field("volume", **sides, unit="", by_scan=False)}
    described = {"title": "Brains: blocks of three heads in MR", "licence": LICENCE}
    describe(out, fields, {"head": "category"}, split="part", **described)


def _colin(files: dict[str, bytes]) -> Head:
    voxels, affine = scan(files["ch2.nii.gz"])
    regions = scan(files["aal.nii.gz"])[0].astype(np.int64)
    between = regions - PAIRED + PAIRED // 2
    regions = np.where(regions > PAIRED, between, (regions + 1) // 2)
    return Head("colin", voxels, affine, {"regions": regions})


def _mni(archive: Path) -> Head:
    with wheel(archive) as opened:
        voxels, affine = scan(opened.read(MNI.format("t1")))
        grey, white = (scan(opened.read(MNI.format(name)))[0] for name in ("gm", "wm"))
    tissue = np.where(white > HALF, 2, np.where(grey > HALF, 1, 0))
    return Head("mni", voxels, affine, {"tissue": tissue})


def _macaque(files: dict[str, bytes]) -> Head:
    voxels, affine = scan(files["inia19-t1-brain.nii.gz"])
    numbers = scan(files["inia19-NeuroMaps.nii.gz"])[0].astype(np.int64) % RIGHT
    counts = np.bincount(numbers.ravel())[1:]
    largest = 1 + np.argsort(-counts, kind="stable")[:LARGEST]
    regions = np.where(numbers > 0, UNKNOWN, 0)
    for i, number in enumerate(np.sort(largest).tolist()):
        regions[numbers == number] = i + 1
    return Head("macaque", voxels, affine, {"macaque_regions": regions})

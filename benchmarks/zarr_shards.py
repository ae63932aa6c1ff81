"""One date of a place out of shards in the layout of SSL4EO-S12 v1.1, against the same pixels in
files.

64 places of 12 bands, 264 x 264 pixels, four dates: a .zarr.zip that is chunked by date, read by
ours record by record in random order; GeoTIFF of each date in all bands (deflate, predictor 2), of
each band (as in SSL4EO-S12 v1.0), and of all dates in one file; the package zarr, which reads the
chunk of all 64 places. Pixels are a smooth ground, another for each date, with noise. Files are in
the page cache. By the clock; memory is not measured.
"""

import math
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import zarr
from rasterio.transform import from_origin
from scipy import ndimage

from amodal import data
from amodal.data.readers.zarr_shards import ZarrShards
from benchmarks._timing import Row
from benchmarks._wall_clock import alternate

ONLY_BY_NAME = True
PLACES, DATES, BANDS, SIDE = 64, 4, 12, 264
READS = 32
"""Of a measurement."""


def run() -> list[Row]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pixels = [_pixels(rng) for _ in range(PLACES)]
        shard = _shards(root / "shards", pixels)
        files = {name: root / name for name in ("date", "band", "place")}
        for i, place in enumerate(pixels):
            _files(files, i, place)
        order = rng.permutation(PLACES)[:READS].tolist()
        dates = rng.integers(DATES, size=READS).tolist()
        chosen = list(zip(order, dates))
        reader = ZarrShards(root / "shards")
        peers = {
            "a GeoTIFF of each date": partial(_of_date, files["date"]),
            "a GeoTIFF of each band and date": partial(_of_bands, files["band"]),
            "a GeoTIFF of all dates of a place": partial(_of_place, files["place"]),
            "zarr, the whole chunk": partial(_of_zarr, shard),
        }
        ours = partial(_of_shard, reader)
        for read in peers.values():
            np.testing.assert_array_equal(read(3, 2), ours(3, 2))
        return [
            alternate(
                "one date of a place",
                partial(_timed, ours, chosen),
                name,
                partial(_timed, read, chosen),
            )
            for name, read in peers.items()
        ]


def _timed(read, chosen):
    start = time.perf_counter()
    for i, date in chosen:
        read(i, date)
    return (time.perf_counter() - start) / len(chosen), math.nan


def _pixels(rng):
    """(dates, bands, height, width) int16."""
    ground = ndimage.gaussian_filter(rng.normal(size=(BANDS, SIDE, SIDE)), (0, 3, 3)) * 6000 + 2500
    shades = [ground * (0.8 + 0.1 * d) + 40 * rng.normal(size=ground.shape) for d in range(DATES)]
    return np.stack(shades).astype(np.int16)


def _shards(folder, pixels):
    names = [f"B{i + 1:02d}" for i in range(BANDS)]
    values = [{"values": p, "bands": names} for p in pixels]
    dataset = data.open({"s2": values}, fields={"s2": "raster"})
    dataset = dataset.with_parts(np.zeros(len(dataset), dtype=np.int8))
    return data.write_zarr(dataset, folder)[0]


def _files(folders, i, pixels):
    for name in folders:
        folders[name].mkdir(exist_ok=True)
    for date, of_date in enumerate(pixels):
        _tiff(folders["date"] / f"{i}-{date}.tif", of_date)
        for band in range(BANDS):
            _tiff(folders["band"] / f"{i}-{date}-{band}.tif", of_date[band : band + 1])
    _tiff(folders["place"] / f"{i}.tif", pixels.reshape(-1, SIDE, SIDE))


def _tiff(path, planes):
    options = {"dtype": "int16", "crs": "EPSG:32633", "transform": from_origin(0, 0, 10, 10)}
    options |= {"compress": "deflate", "predictor": 2, "count": len(planes)}
    with rasterio.open(path, "w", driver="GTiff", height=SIDE, width=SIDE, **options) as file:
        file.write(planes)


def _of_shard(reader, i, date):
    return reader.get(reader.keys.index(str(i)), "s2")["values"].at_dates([date])[0]


def _of_date(folder, i, date):
    with rasterio.open(folder / f"{i}-{date}.tif") as file:
        return file.read().astype(np.float32)


def _of_bands(folder, i, date):
    parts = []
    for band in range(BANDS):
        with rasterio.open(folder / f"{i}-{date}-{band}.tif") as file:
            parts.append(file.read(1))
    return np.stack(parts).astype(np.float32)


def _of_place(folder, i, date):
    with rasterio.open(folder / f"{i}.tif") as file:
        bands = range(1 + date * BANDS, 1 + (date + 1) * BANDS)
        return file.read(list(bands)).astype(np.float32)


def _of_zarr(path, i, date):
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    row = group["sample"][:].tolist().index(str(i))
    return group["bands"][row, date].astype(np.float32)

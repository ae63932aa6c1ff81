"""From files to batches and from bytes to pixels, against webdataset, Hugging Face datasets and
torchvision.

Records: 2,048 of a 64-pixel JPEG (four tiles of the bundled globe), 1 s of FLAC at 16 kHz (the
relief below them, as a wave) and the names of the places, written once in each format. A pass is
shuffled, in batches of 64, decoded by 2 worker processes and by the clock on the wall; peers decode
with Pillow and soundfile and make the same batch (pixels as floats, samples and bytes end to end).
Every pass must deliver every pixel, sample and byte once, or the benchmark stops. "First batch"
runs from opening the data, as `amodal init` described it, to having the first batch. Decoding and
augmenting a value are CPU time of one core, in one process.
"""

import importlib.util
import io
import math
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader

import amodal
from amodal import data
from amodal.modalities.audio import Audio
from amodal.modalities.image import Image
from amodal.train.log import read_metrics
from benchmarks._timing import Row, compare
from benchmarks._wall_clock import row_of

RECORDS, BATCH, WORKERS, TURNS = 2048, 64, 2, 3
RATE = 16_000
PEERS = ("webdataset", "datasets", "torchvision")
FIELDS = ("image", "audio", "text")

Record = dict[str, object]
Content = tuple[int, int, int]
"""Sums over a pass: of pixels (0 … 255), of samples (16 bits), and the number of bytes of text."""


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [*passes(Path(folder)), *values(), *waiting(Path(folder) / "run")]


# What all read


def records(count: int) -> Iterator[dict[str, bytes]]:
    """image, audio, text as files hold them."""
    globe = data.open("globe")
    for i in range(count):
        four = [(i + at) % len(globe) for at in (0, 1, 2, 3)]
        colour, relief = ([globe.value(j, field) for j in four] for field in ("colour", "relief"))
        pixels = np.block([[[colour[0], colour[1]], [colour[2], colour[3]]]])
        heights = np.concatenate([tile[0].ravel() for tile in relief]).astype(np.float64)
        wave = (
            np.interp(np.linspace(0, len(heights) - 1, RATE), np.arange(len(heights)), heights)
            / 128
            - 1
        )
        places = "; ".join(filter(None, (globe.raw(j, "places") for j in four)))
        yield {
            "image": jpeg(pixels),
            "audio": flac(wave),
            "text": (places or f"open water {i}").encode(),
        }


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def flac(wave: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, wave, RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def write_all(folder: Path) -> dict[str, Path]:
    """Format -> where it is, each with the dataset.toml that `amodal init` writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    endings = {"image": "jpg", "audio": "flac", "text": "txt"}
    names = [f"{'ab'[i % 2]}/{i:05d}" for i in range(RECORDS)]
    rows = list(records(RECORDS))
    where = {name: folder / name for name in ("folder", "packed", "tar", "parquet", "saved")}
    for part in "ab":
        (where["folder"] / part).mkdir(parents=True)
    where["tar"].mkdir()
    where["parquet"].mkdir()
    for name, row in zip(names, rows):
        for field, content in row.items():
            (where["folder"] / f"{name}.{endings[field]}").write_bytes(content)
    for shard in range(8):
        with tarfile.open(where["tar"] / f"{shard}.tar", "w") as tar:
            for name, row in zip(names[shard::8], rows[shard::8]):
                for field, content in row.items():
                    member = tarfile.TarInfo(f"{name[2:]}.{endings[field]}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    columns = {field: [row[field] for row in rows] for field in FIELDS}
    columns = {"key": names} | columns | {"text": [text.decode() for text in columns["text"]]}
    pq.write_table(pa.table(columns), where["parquet"] / "records.parquet", row_group_size=100)
    if installed("datasets"):
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns).save_to_disk(where["saved"])
    else:
        del where["saved"]
    for name in ("folder", "tar", "parquet", "saved"):
        if name in where:
            with redirect_stdout(io.StringIO()):
                data.init(where[name])
    data.pack(opened(where["folder"]), where["packed"])
    return where


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# Passes over the data


@dataclass(frozen=True)
class Pass:
    """first: seconds from opening to the first batch; all: to the end."""

    first: float
    all: float


def passes(folder: Path) -> list[Row]:
    where = write_all(folder)
    ours = {
        name: lambda seed, path=path: our_batches(path, FIELDS, seed)
        for name, path in where.items()
    }
    peers = {}
    if installed("webdataset"):
        peers["webdataset"] = lambda seed: webdataset_batches(where["tar"])
    if installed("datasets"):
        peers["HF datasets + DataLoader"] = lambda seed: huggingface_batches(where["saved"])
    for name in PEERS:
        if not installed(name):
            print(f"data: {name} is not installed, its lines are left out")
    rows = matrix(ours, peers, "image + FLAC + text")
    if installed("torchvision"):
        pictures = {
            n: lambda seed, n=n: our_batches(where[n], ("image",), seed)
            for n in ("folder", "packed")
        }
        folder_of_images = {
            "torchvision ImageFolder + DataLoader": lambda seed: torchvision_batches(
                where["folder"]
            )
        }
        rows += matrix(pictures, folder_of_images, "image")
    return rows


def matrix(
    ours: dict[str, Callable[[int], Iterable]],
    peers: dict[str, Callable[[int], Iterable]],
    what: str,
) -> list[Row]:
    """Each of ours against each peer; all take turns, in an order that is reversed every other
    turn."""
    calls = {("amodal", name): call for name, call in ours.items()} | {
        ("", name): call for name, call in peers.items()
    }
    delivered = {name: one_pass(call, 0)[1] for name, call in calls.items()}
    if len(set(delivered.values())) > 1:
        raise RuntimeError(f"not everybody delivers the same records: {delivered}")
    taken: dict = {name: [] for name in calls}
    for turn in range(TURNS):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            taken[name].append(one_pass(calls[name], turn)[0])
    rows = []
    for (_, name), peer in ((a, b) for a in taken for b in taken if a[0] and not b[0]):
        mine, theirs = taken["amodal", name], taken[peer]
        rate, their_rate = (
            RECORDS / statistics.median(p.all for p in each) for each in (mine, theirs)
        )
        what_ran = f"{what} from {name}, a pass, {rate:,.0f} records/s"
        rows.append(
            timed(
                what_ran, f"{peer[1]}, {their_rate:,.0f} records/s", mine, theirs, lambda p: p.all
            )
        )
        rows.append(
            timed(f"{what} from {name}, first batch", peer[1], mine, theirs, lambda p: p.first)
        )
    return rows


def timed(
    what: str, peer: str, mine: list[Pass], theirs: list[Pass], of: Callable[[Pass], float]
) -> Row:
    return row_of(
        what, peer, [(of(p), math.nan) for p in mine], [(of(p), math.nan) for p in theirs]
    )


def one_pass(call: Callable[[int], Iterable], seed: int) -> tuple[Pass, Content]:
    start, first, content = time.perf_counter(), 0.0, (0, 0, 0)
    for images, samples, letters in call(seed):
        first = first or time.perf_counter() - start
        sums = (
            images.double().sum() * 255,
            samples.double().sum() * 32768,
            torch.tensor(len(letters)),
        )
        content = tuple(a + round(float(b)) for a, b in zip(content, sums))
    return Pass(first, time.perf_counter() - start), content


Made = tuple[Tensor, Tensor, Tensor]
"""images (B, 3, 64, 64) float32, samples and letters of the batch end to end."""
NOTHING = torch.zeros(0)


def opened(path: Path) -> data.Dataset:
    """Values as the peers have them: every pixel and every sample."""
    described = data.open(path).select(FIELDS)
    kinds = {"image": Image(64, 3), "audio": Audio(rate=RATE, max_seconds=0)}
    return described.with_fields({**described.fields, **kinds})


def our_batches(path: Path, fields: tuple[str, ...], seed: int) -> Iterator[Made]:
    dataset = opened(path).select(fields)
    loader = data.Loader(
        dataset, np.arange(RECORDS), batch=BATCH, workers=WORKERS, seed=seed, cache_bytes=0
    )
    for batch in loader:
        flat = [batch[s].values.flat if s in fields else NOTHING for s in ("audio", "text")]
        yield batch["image"].values, *flat


def decoded(image: bytes, audio: bytes, text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As people write it for their own loaders."""
    pixels = np.asarray(Pillow.open(io.BytesIO(image)).convert("RGB")).transpose(2, 0, 1)
    samples, _ = soundfile.read(io.BytesIO(audio), dtype="float32")
    return pixels, samples, np.frombuffer(text, dtype=np.uint8).astype(np.int32)


def collated(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Made:
    images, samples, letters = zip(*rows)
    return (
        torch.from_numpy(np.stack(images)).float().div_(255),
        torch.from_numpy(np.concatenate(samples)),
        torch.from_numpy(np.concatenate(letters)),
    )


def webdataset_batches(tars: Path) -> Iterable[Made]:
    import webdataset

    shards = [str(path) for path in sorted(tars.glob("*.tar"))]
    stream = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000)
    stream = stream.map(lambda r: decoded(r["jpg"], r["flac"], r["txt"])).batched(
        BATCH, collation_fn=collated
    )
    return webdataset.WebLoader(stream, batch_size=None, num_workers=WORKERS)


def huggingface_batches(folder: Path) -> Iterable[Made]:
    import datasets

    rows = datasets.load_from_disk(folder)
    return DataLoader(
        rows, batch_size=BATCH, shuffle=True, num_workers=WORKERS, collate_fn=from_rows
    )


def from_rows(rows: list[Record]) -> Made:
    return collated([decoded(row["image"], row["audio"], row["text"].encode()) for row in rows])


def torchvision_batches(folder: Path) -> Iterator[Made]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    files = ImageFolder(str(folder), transform=PILToTensor())
    for images, _ in DataLoader(files, batch_size=BATCH, shuffle=True, num_workers=WORKERS):
        yield images.float().div_(255), NOTHING, NOTHING


# Values, one core


def values() -> list[Row]:
    small, waves = zip(*((r["image"], r["audio"]) for r in records(128)))
    wide = [tall_picture(i) for i in range(16)]
    audio = Audio(rate=RATE, max_seconds=0)

    def sound() -> None:
        for wave in waves:
            soundfile.read(io.BytesIO(wave), dtype="float32")

    rows = [
        per_value(
            "decode 1 s FLAC",
            lambda: [audio.decode(wave) for wave in waves],
            "soundfile",
            sound,
            len(waves),
        )
    ]
    if not installed("torchvision"):
        return rows
    for size, files in ((64, small), (224, wide)):
        for view in ("plain", "weak", "strong"):
            what = f"JPEG to {size} px" + ("" if view == "plain" else f", {view} view")
            peer = "Pillow + torchvision v2"
            rows.append(
                per_value(
                    what,
                    our_views(files, size, view),
                    peer,
                    their_views(files, size, view),
                    len(files),
                )
            )
            if view != "plain":
                rows.append(augmenting(files, size, view))
    return rows


def tall_picture(seed: int) -> bytes:
    """256 pixels a side: 8 by 8 tiles."""
    globe = data.open("globe")
    tiles = [globe.value((seed * 64 + i) % len(globe), "colour") for i in range(64)]
    return jpeg(np.concatenate([np.concatenate(tiles[8 * r : 8 * r + 8], 2) for r in range(8)], 1))


def per_value(
    what: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object], count: int
) -> Row:
    """A comparison whose name says values per second of one core."""
    row = compare(what, ours, peer, theirs, repeat=3)
    mine, other = (f"{1000 * count / ms:,.0f}/s" for ms in (row.ours_ms, row.peer_ms))
    return replace(
        row, what=f"{what}, {mine}", peer=f"{peer}, {other}", ours_mib=math.nan, peer_mib=math.nan
    )


def our_views(files: Iterable[bytes], size: int, view: str) -> Callable[[], object]:
    image, rng = Image(size, 3), np.random.default_rng(0)
    return lambda: image.collate([image.augment(image.decode(file), view, rng) for file in files])


def their_views(files: Iterable[bytes], size: int, view: str) -> Callable[[], object]:
    from torchvision.transforms import v2

    change = their_transform(size, view)

    def call() -> Tensor:
        pictures = [
            v2.functional.pil_to_tensor(Pillow.open(io.BytesIO(file)).convert("RGB"))
            for file in files
        ]
        return torch.stack([change(picture) for picture in pictures]).float().div_(255)

    return call


def augmenting(files: Iterable[bytes], size: int, view: str) -> Row:
    """The view alone, of pictures that are decoded."""
    image, rng, change = Image(size, 3), np.random.default_rng(0), their_transform(size, view)
    arrays = [image.decode(file) for file in files]
    tensors = [torch.from_numpy(array) for array in arrays]
    return per_value(
        f"{view} view alone, {size} px",
        lambda: [image.augment(array, view, rng) for array in arrays],
        "torchvision v2",
        lambda: [change(tensor) for tensor in tensors],
        len(arrays),
    )


def their_transform(size: int, view: str) -> Callable[[Tensor], Tensor]:
    """SimCLR's views as torchvision makes them; plain is a resize."""
    from torchvision.transforms import v2

    if view == "plain":
        return v2.Resize((size, size), antialias=True)
    crop = [v2.RandomResizedCrop(size, scale=(0.6 if view == "weak" else 0.2, 1.0), antialias=True)]
    flip = [v2.RandomHorizontalFlip()]
    if view == "weak":
        return v2.Compose(crop + flip)
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    width = max(3, 2 * (size // 20) + 1)  # a tenth of the side, as SimCLR has it
    blur = v2.RandomApply([v2.GaussianBlur(width, sigma=(0.1, 2.0 * size / 224))], p=0.5)
    return v2.Compose([*crop, *flip, jitter, v2.RandomGrayscale(0.2), blur])


# A training run


def waiting(folder: Path, steps: int = 60) -> list[Row]:
    """The share of its time that the demo's training spends waiting for a batch, by its own
    metrics."""
    rows = []
    for workers in (0, WORKERS):
        out = folder / str(workers)
        amodal.pretrain(
            "clip",
            data.open("globe"),
            out,
            size="nano",
            steps=steps,
            seed=0,
            workers=workers,
            progress=False,
        )
        end = read_metrics(out / "metrics.jsonl")[-1]
        summary = f"the demo's training, {workers} workers: {end['data_wait']:.1%} of {steps} steps is waiting for data"
        nothing = math.nan
        rows.append(
            Row(
                summary,
                "",
                nothing,
                1000 * end["seconds"] / steps,
                nothing,
                nothing,
                nothing,
                (nothing,) * 2,
            )
        )
    return rows

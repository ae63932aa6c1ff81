"""Palmer penguins: 344 birds of three species: four measures of the body, and where and when found.

`body` is bill length, bill depth, flipper length (mm), weight (g) and sex; `place` island and year.
Label `species`. Missing cells are as in the source.
"""

import csv
import io
from pathlib import Path

from amodal.data.fetch import Pypi
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records
from testbeds.sets._shares import parts

PACKAGES = (
    Pypi(
        "palmerpenguins",
        "0.1.6",
        "5c3be9af84dd703a25f1aaeadeac6ac770cfd38c1620d00089f581c023129ee0",
        0.02,
    ),
)
LICENCE = "CC0-1.0"
RECORDS = 344
MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "year")
NAMES = ("sex", "island", "species")
FIELDS = {"body": (*MEASURES[:4], "sex"), "place": ("island", "year")}


def write(out: Path, archives: list[Path]) -> None:
    text = wheel(archives[0]).read("palmerpenguins/data/penguins.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    keys = [f"penguin-{i:03d}" for i in range(len(rows))]
    cells = {m: [float(row[m]) if row[m] != "NA" else None for row in rows] for m in MEASURES}
    names = {n: [row[n] if row[n] != "NA" else None for row in rows] for n in NAMES}
    part = parts(keys, 0.2, 0.2, [row["species"] for row in rows])
    records(out, {"key": keys, **cells, **names, "part": part})
    describe(
        out,
        {name: field("table", columns=list(columns)) for name, columns in FIELDS.items()},
        {"species": "category"},
        title="Palmer penguins",
        licence=LICENCE,
        split="part",
    )

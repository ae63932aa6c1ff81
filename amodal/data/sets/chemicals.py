"""Chemicals: 12,000 compounds, each a SMILES string, names and a formula, with boiling and melting
points.

Compounds of the `chemicals` package for which a boiling or a melting point was measured: all 4,168
with both, then others in an order that has no meaning. `smiles` is the structure, `name` the
systematic name, `synonym` the first other name that is no number. Labels in kelvin: `boiling`
(Yaws), `melting` (open notebook); `weight` in gram per mole.
"""

import csv
import hashlib
import io
import zipfile
from pathlib import Path

from amodal.data.fetch import Pypi
from amodal.data.schema import Label
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "chemicals",
        "1.5.2",
        "f85ef7f36e77fee634686c26562929ee61026cd548d89cebd57b2251ca843d6e",
        22.3,
    ),
)
LICENCE = "MIT (package); structures and names: PubChem, public domain"
RECORDS = 12000
POINTS = {"boiling": "Yaws Boiling Points.tsv", "melting": "OpenNotebook Melting Points.tsv"}


def write(out: Path, archives: list[Path]) -> None:
    package = wheel(archives[0])
    points = {name: _points(package, file) for name, file in POINTS.items()}
    compounds = {}
    for size in ("small", "large"):
        text = package.read(
            f"chemicals/Identifiers/chemical identifiers pubchem {size}.tsv"
        ).decode("utf-8")
        for line in text.splitlines():
            cells = line.split("\t")
            if any(cells[1] in known for known in points.values()):
                compounds[cells[1]] = cells
    chosen = sorted(
        compounds,
        key=lambda cas: (not all(cas in known for known in points.values()), _shuffled(cas)),
    )
    rows = [compounds[cas] for cas in chosen[:RECORDS]]
    alphabet = "".join(sorted(set("".join(row[4] for row in rows))))
    records(
        out,
        {
            "key": [row[1] for row in rows],
            "smiles": [row[4] for row in rows],
            "name": [row[7] for row in rows],
            "synonym": [
                next((n for n in row[8:] if n != row[7] and not n[:1].isdigit()), None)
                for row in rows
            ],
            "formula": [row[2] for row in rows],
            **{name: [known.get(row[1]) for row in rows] for name, known in points.items()},
            "weight": [float(row[3]) for row in rows],
        },
    )
    describe(
        out,
        {"smiles": field("sequence", alphabet=alphabet, fold=False)}
        | {name: field("text") for name in ("name", "synonym", "formula")},
        {name: Label("number", unit="K") for name in POINTS}
        | {"weight": Label("number", unit="g / mol")},
        title="Compounds: structures, names, boiling and melting points",
        licence="MIT",
    )


def _points(package: zipfile.ZipFile, file: str) -> dict[str, float]:
    rows = csv.reader(
        io.StringIO(package.read(f"chemicals/Phase Change/{file}").decode("utf-8")), delimiter="\t"
    )
    next(rows)
    return {row[0]: float(row[1]) for row in rows if len(row) > 1 and row[1].strip()}


def _shuffled(cas: str) -> str:
    return hashlib.blake2b(cas.encode(), digest_size=8).hexdigest()

"""FLCHAIN: 7,874 people of Olmsted County over 50: age and sex, proteins in their blood, days until
death.

A stratified sample of half of the people of a study of free light chains (Dispenzieri et al. 2012),
as R's survival package has it. Fields: `person` (age, sex, year of the blood sample) and `blood`
(kappa and lambda light chains, creatinine, which was not measured for a sixth, and whether
monoclonal gammopathy was found). Labels: `time`, days until death or the last visit, `event`, 1
dead and 0 alive then. Left out: the cause of death, which is known of the dead alone, and the tenth
that the chains fall into.
"""

from pathlib import Path

from amodal.data.schema import Label
from amodal.data.sets.gse7390 import PACKAGES as PACKAGES
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

LICENCE = "public (in R's survival, LGPL; package: GPL-3)"
RECORDS = 7874
FILE = "sksurv/datasets/data/flchain.arff"
PERSON = {"age": ("age", float), "sex": ("sex", str), "year": ("sample.yr", float)}
BLOOD = {
    "kappa": ("kappa", float),
    "lambda": ("lambda", float),
    "creatinine": ("creatinine", float),
    "mgus": ("mgus", str),
}


def write(out: Path, archives: list[Path]) -> None:
    head, _, body = wheel(archives[0]).read(FILE).decode().partition("@data")
    names = [line.split()[1] for line in head.splitlines() if line.startswith("@attribute")]
    rows = [dict(zip(names, line.split(","))) for line in body.split("\n") if line.strip()]
    cells = {
        name: [kind(row[column]) if row[column] != "?" else None for row in rows]
        for name, (column, kind) in (PERSON | BLOOD).items()
    }
    dead = {"alive": "0", "dead": "1"}
    records(
        out,
        {
            "key": [f"person-{i:04d}" for i in range(len(rows))],
            **cells,
            "time": [float(row["futime"]) for row in rows],
            "event": [dead[row["death"]] for row in rows],
        },
    )
    describe(
        out,
        {
            "person": field("table", columns=list(PERSON)),
            "blood": field("table", columns=list(BLOOD)),
        },
        {"time": Label("number", unit="day", event="event"), "event": "category"},
        title="Free light chains in the blood, age, sex and time to death",
        licence="public",
    )

"""GSE7390: 198 women with breast cancer: 76 genes, four clinical findings, days until metastasis.

The 76 genes of a known signature (columns are Affymetrix probes, log scale); age, size of the
tumour in cm, grade and oestrogen receptor. Labels: `time`, days to distant metastasis or to the end
of observation, and `event`, 1 if there was a metastasis and 0 if observation ended before. A grade
that is not known is missing.
"""

import re
from pathlib import Path

import pyarrow as pa

from amodal.data.fetch import Pypi
from amodal.data.schema import Label
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "scikit-survival",
        "0.28.0",
        "d5816b07570ad8edf849502ea59abdd1391d74aaa6f9215224c38c0887fcb1d5",
        4.0,
        platform="manylinux_2_28_x86_64",
        python="3.11",
    ),
)
LICENCE = "public (NCBI GEO GSE7390); package: GPL-3"
RECORDS = 198
FILE = "sksurv/datasets/data/breast_cancer_GSE7390-metastasis.arff"
CLINICAL = {"age": float, "size": float, "grade": str, "er": str}


def write(out: Path, archives: list[Path]) -> None:
    head, _, body = wheel(archives[0]).read(FILE).decode().partition("@data")
    names = re.findall(r"^@attribute (\S+)", head, re.MULTILINE)
    rows = [dict(zip(names, line.split(","))) for line in body.split("\n") if line.strip()]
    genes = [name for name in names if name.startswith("X")]
    clinical = {
        name: [kind(row[name]) if row[name] not in ("?", "unkown") else None for row in rows]
        for name, kind in CLINICAL.items()
    }
    records(
        out,
        {
            "key": [f"patient-{i:03d}" for i in range(len(rows))],
            "genes": pa.array(
                [[float(row[gene]) for gene in genes] for row in rows], pa.list_(pa.float32())
            ),
            **clinical,
            "time": [float(row["t.tdm"]) for row in rows],
            "event": [row["e.tdm"] for row in rows],
        },
    )
    describe(
        out,
        {
            "genes": field("table", columns=[gene.removeprefix("X") for gene in genes]),
            "clinical": field("table", columns=list(CLINICAL)),
        },
        {"time": Label("number", unit="day", event="event"), "event": "category"},
        title="Breast cancer: genes, clinical findings and time to metastasis",
        licence="public",
    )

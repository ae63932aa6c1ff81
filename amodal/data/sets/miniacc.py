"""miniACC: 92 people with adrenocortical carcinoma (TCGA), each seen by up to five assays, and how
long they lived.

Expression of 198 genes (log2 of 1 + count), their copy number (-2 to 2), 33 proteins, mutations in
97 genes (0 or 1) and 471 microRNAs (log2 of 1 + count). Many people lack assays: that is how the
study is. Labels: `time` in days until death or the last visit, `event` (1 dead, 0 alive then),
stage, histology, and the subtypes that the study found. Left out: 20 more columns about the
patients, second samples of a person.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.fetch import Debian
from amodal.data.schema import Label
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Debian(
        "r-bioc-multiassayexperiment",
        "1.32.0+dfsg-2",
        "6b81c3ed70e667efc1af068d36544447ef8d960087ff925f889bd6d2360b42d2",
        1.1,
    ),
)
LICENCE = "open access (TCGA); package: Artistic-2.0"
RECORDS = 92
FILE = "usr/lib/R/site-library/MultiAssayExperiment/data/miniACC.RData"
ASSAYS = {
    "genes": "RNASeq2GeneNorm",
    "copy_number": "gistict",
    "proteins": "RPPAArray",
    "mutations": "Mutations",
    "mirna": "miRNASeqGene",
}
COUNTS = ("genes", "mirna")
GROUPS = {
    "stage": "pathologic_stage",
    "histology": "Histology",
    "expression_type": "mRNA_K4",
    "methylation": "MethyLevel",
    "cluster": "COC",
}


def write(out: Path, archives: list[Path]) -> None:
    try:
        from amodal.data.sets.shared import r as _r
    except ImportError as error:
        raise AmodalError(
            f"miniacc is an R object, read with rdata: pip install rdata ({error})"
        ) from None
    [(_, content)] = deb(archives[0], FILE)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "miniACC.RData").write_bytes(content)
        tables = _r.tables(Path(work) / "miniACC.RData")
    people = tables["/miniACC@colData"]
    assert isinstance(people, dict)  # a data frame
    ids = people["patientID"]
    columns: dict[str, Any] = {"key": list(ids)}
    fields = {}
    for name, assay in ASSAYS.items():
        matrix = next(
            m for path, m in tables.items() if f"/{assay}" in path and isinstance(m, _r.Matrix)
        )
        seen: dict[str, list[float]] = {}
        for sample, values in zip(matrix.columns, matrix.values.T):
            values = np.log2(1 + values) if name in COUNTS else values
            seen.setdefault(sample[:12], values.astype(np.float32).tolist())
        columns[name] = pa.array([seen.get(person) for person in ids], pa.list_(pa.float32()))
        fields[name] = field("table", columns=list(matrix.rows))
    dead, last = people["days_to_death"], people["days_to_last_followup"]
    days = [float(d if d == d else x) for d, x in zip(dead, last)]
    columns["time"] = [t if t == t else None for t in days]
    columns["event"] = [str(int(status)) for status in people["vital_status"]]
    columns |= {
        name: [v if isinstance(v, str) else None for v in people[column]]
        for name, column in GROUPS.items()
    }
    records(out, columns)
    labels: dict[str, Label | str] = {"time": Label("number", unit="day", event="event")}
    labels |= dict.fromkeys(("event", *GROUPS), "category")
    describe(
        out,
        fields,
        labels,
        title="Adrenocortical carcinoma seen by five assays",
        licence="open access",
    )

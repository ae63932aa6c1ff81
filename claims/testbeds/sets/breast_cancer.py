"""Breast cancer (Wisconsin, diagnostic): 569 tumours, ten measures of cell nuclei in three tables.

As scikit-learn has it, which amodal depends on. `mean`, `error` and `worst` are the mean, its
standard error and the mean of the three largest values of ten measures over the nuclei of a
picture. Label `diagnosis`.
"""

from pathlib import Path

from amodal.data.sets.shared.writing import describe, field, records
from testbeds.sets._shares import parts

PACKAGES = ()
LICENCE = "CC BY 4.0 (UCI)"
RECORDS = 569
TABLES = {"mean": slice(0, 10), "error": slice(10, 20), "worst": slice(20, 30)}


def write(out: Path, archives: list[Path]) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    keys = [f"tumour-{i:03d}" for i in range(len(data.data))]
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    columns = {name: data.data[:, i].tolist() for i, name in enumerate(names)}
    diagnosis = [str(data.target_names[t]) for t in data.target]
    part = parts(keys, 0.2, 0.2, diagnosis)
    records(out, {"key": keys, **columns, "diagnosis": diagnosis, "part": part})
    describe(
        out,
        {name: field("table", columns=names[chosen]) for name, chosen in TABLES.items()},
        {"diagnosis": "category"},
        title="Breast tumours by their cell nuclei",
        licence="CC-BY-4.0",
        split="part",
    )

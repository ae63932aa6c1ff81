"""Wine: 178 Italian wines of three cultivars, 13 chemical measures each.

As scikit-learn has it, which amodal depends on. `basic` is alcohol, acid, ash and magnesium;
`phenols` the phenols and what they make of colour. Label `cultivar`.
"""

from pathlib import Path

from amodal.data.sets.shared.writing import describe, field, records
from testbeds.sets._shares import parts

PACKAGES = ()
LICENCE = "CC BY 4.0 (UCI)"
RECORDS = 178
BASIC = ("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "proline")


def write(out: Path, archives: list[Path]) -> None:
    from sklearn.datasets import load_wine

    data = load_wine()
    keys = [f"wine-{i:03d}" for i in range(len(data.data))]
    columns = {n: data.data[:, i].tolist() for i, n in enumerate(data.feature_names)}
    cultivar = [str(data.target_names[t]) for t in data.target]
    part = parts(keys, 0.2, 0.2, cultivar)
    records(out, {"key": keys, **columns, "cultivar": cultivar, "part": part})
    others = [name for name in data.feature_names if name not in BASIC]
    describe(
        out,
        {"basic": field("table", columns=list(BASIC)), "phenols": field("table", columns=others)},
        {"cultivar": "category"},
        title="Wines by their chemistry",
        licence="CC-BY-4.0",
        split="part",
    )

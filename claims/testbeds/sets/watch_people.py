"""The set `watch` with two people to validate and two to test on: shoulder exercises by smartwatch.

416 windows of 10 s of an accelerometer and a gyroscope, 10 people, 7 exercises. The split of
`watch` by hash leaves one person each to validate and to test on, and then a score is that
person's. Here six people are learnt from, two are validated and two are tested on.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from amodal.data import schema
from amodal.data.sets import watch
from testbeds.sets._shares import parts

PACKAGES = watch.PACKAGES
LICENCE = watch.LICENCE
RECORDS = watch.RECORDS


def write(out: Path, archives: list[Path]) -> None:
    watch.write(out, archives)
    file, toml = out / "records.parquet", out / "dataset.toml"
    table = pq.read_table(file)
    part = parts(table["subject"].to_pylist(), valid=0.2, test=0.2)
    pq.write_table(table.append_column("part", pa.array(part)), file, compression="zstd")
    declared = toml.read_text(encoding="utf-8")
    assert 'split_by = "subject"' in declared, "as `watch` writes it"
    toml.write_text(declared.replace('split_by = "subject"', 'split = "part"'), encoding="utf-8")
    schema.load(toml)

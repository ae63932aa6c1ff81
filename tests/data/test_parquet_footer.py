"""A Parquet file with flipped bits does not end the process."""

import io
import multiprocessing
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amodal.data.readers._parquet_footer import null_counts
from amodal.data.readers._parts import Parquet

ROWS = 50


def written(**options):
    table = pa.table(
        {
            "x": [None if i % 3 else float(i) for i in range(ROWS)],
            "words": [f"w{i}" for i in range(ROWS)],
            "none": pa.array([None] * ROWS, pa.int32()),
            "picture": [{"bytes": b"abc", "path": None if i % 2 else "a"} for i in range(ROWS)],
            "numbers": [[1.0] * (i % 4) for i in range(ROWS)],
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=20, **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"version": "1.0"}, {"write_statistics": ["words"]}])
def test_counts_are_those_of_pyarrow(options):
    data = written(**options)
    meta = pq.read_metadata(io.BytesIO(data))
    groups = null_counts(io.BytesIO(data))
    assert len(groups) == meta.num_row_groups == 3
    for g, counts in enumerate(groups):
        leaves = [meta.row_group(g).column(c) for c in range(meta.num_columns)]
        expected = {
            leaf.path_in_schema: leaf.statistics.null_count
            for leaf in leaves
            if leaf.statistics is not None and leaf.statistics.has_null_count
        }
        assert counts == expected


def test_presence_is_that_of_the_values(tmp_path):
    (tmp_path / "t.parquet").write_bytes(written())
    part = Parquet(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    for column in table.column_names:
        expected = np.array(table.column(column).is_valid().to_pylist())
        np.testing.assert_array_equal(part.present(column), expected, err_msg=column)


def damaged(seed, data):
    rng, content = random.Random(seed), bytearray(data)
    first = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for _ in range(4):
        content[rng.randrange(first, len(data) - 8)] ^= 1 << rng.randrange(8)
    return bytes(content)


def read_all(folder, count):
    data = written()
    for seed in range(count):
        (folder / "t.parquet").write_bytes(damaged(seed, data))
        try:
            part = Parquet(folder / "t.parquet")
            for column in part.columns:
                part.present(column)
        except Exception:  # noqa: BLE001, S110  any error is better than the end of the process
            pass


def test_flipped_bits_end_no_process(tmp_path):
    """1 of 140 such files did."""
    other = multiprocessing.get_context("spawn").Process(target=read_all, args=(tmp_path, 600))
    other.start()
    other.join(120)
    assert other.exitcode == 0


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x19" * 40 + b"\x28\0\0\0PAR1"]
)
def test_no_footer_is_an_error(content):
    with pytest.raises(ValueError):
        null_counts(io.BytesIO(content))

"""What `amodal data NAME` ends with."""

import numpy as np
import pytest

from amodal.cli.data import first_method


@pytest.mark.parametrize(
    ("columns", "method"),
    [
        ({"curve": [[1.0, 2.0]] * 30}, "simclr"),
        ({"curve": [[1.0, 2.0]] * 30, "note": ["red"] * 30}, "clip"),
        # no record has both
        ({"curve": [[1.0, 2.0]] * 15 + [None] * 15, "note": [None] * 15 + ["red"] * 15}, "simclr"),
    ],
)
def test_a_set_is_followed_by_a_method_that_its_fields_allow(tmp_path, columns, method):
    folder = tmp_path / "set"
    rows = len(next(iter(columns.values())))
    for i in range(rows):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        if (curve := columns["curve"][i]) is not None:
            np.save(folder / "train" / f"r{i:02}.npy", np.array([curve] * 4, np.float32))
        if columns.get("note", [None] * rows)[i] is not None:
            (folder / "train" / f"r{i:02}.txt").write_text(f"red {i}", encoding="utf-8")
    assert first_method(folder) == method

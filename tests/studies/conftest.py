"""What tests of studies share."""

import numpy as np
import pytest

from amodal.data import open as open_data


@pytest.fixture(scope="module")
def digits():
    """One table of the bundled digits, 120 records a part."""
    data = open_data("digits").select(["zer"])
    parts = [data.split(p) for p in ("train", "valid", "test")]
    return data.subset(np.concatenate([part[:: len(part) // 120][:120] for part in parts]))

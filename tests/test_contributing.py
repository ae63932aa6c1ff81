"""What CONTRIBUTING.md shows is code that trains, from a file outside of the package."""

import re
from pathlib import Path

import numpy as np
import pytest

import amodal
from amodal import catalog, methods
from amodal.cli import main

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    columns = {
        "text": [f"number {i}" for i in range(24)],
        "curve": [rng.normal(size=(9, 3)).astype(np.float32) for _ in range(24)],
    }
    return amodal.open(columns, fields={"text": "text", "curve": "series"})


@pytest.mark.parametrize("number, name", [(0, "mine"), (1, "byol")])
def test_a_method_in_a_file(number, name, data, tmp_path, capsys):
    file = tmp_path / f"{name}_file.py"
    file.write_text(BLOCKS[number], encoding="utf-8")
    reference = f"{file}:{name}"
    quick = {"size": "nano", "steps": 3, "batch_size": 8, "progress": False, "device": "cpu"}
    quick |= {"optimizer": "sgd", "lr": 0.01}  # Adam makes steps of rounding errors
    for micro in (None, 4):
        run = tmp_path / f"run {micro}"
        amodal.pretrain(reference, data, run, options={"width": 8}, micro_batch_size=micro, **quick)
    whole, pieces = (amodal.load(tmp_path / f"run {m}", method=reference) for m in (None, 4))
    for a, b in zip(whole.encoder.parameters(), pieces.encoder.parameters()):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-4, atol=1e-5)
    assert whole.spec["code"]["name"] == f"{file.name}:{name}"
    main(["methods", reference])
    assert "width" in capsys.readouterr().out
    assert methods.options(reference).keys() >= {"width"} and catalog.shown(reference, source=True)

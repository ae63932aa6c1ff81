"""Graphs of encoders with relative positions and layer scale, and those that cannot be one."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.export.dense_encoder import DenseEncoder, why_not_exportable
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, fields


def learnt(encoder):
    """With tables and factors that are not as they began."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.named_parameters():
        if "relative" in name or name.endswith("gain"):
            torch.nn.init.normal_(parameter, generator=generator)
    return encoder


@pytest.mark.parametrize("trunk", ["separate", "joint"])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_dense_forms_have_the_same_numbers(trunk, pool):
    torch.manual_seed(0)
    small = fields(("picture",))
    encoder = learnt(
        Encoder(small, size="nano", trunk=trunk, pool=pool, positions="relative:3", layer_scale=0.1)
    ).eval()
    rows = batch(("plain",), sources=("picture",))
    dense = DenseEncoder(encoder, "picture").eval()
    with torch.no_grad():
        made, expected = dense(rows["picture"].values), encoder(rows)["picture"].values
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_a_run_of_beit_is_exported(tmp_path):
    rng = np.random.default_rng(0)
    pictures = data.open({"image": list(rng.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8))})
    model = amodal.pretrain(
        "beit", pictures, tmp_path / "run", size="nano", steps=2, batch_size=8, progress=False,
        options={"codes": 6, "tokenizer": "kmeans"},
    )  # fmt: skip
    learnt(model.encoder)
    model.export(tmp_path / "graphs", to="onnx")
    assert list((tmp_path / "graphs").glob("*.onnx"))


def test_grouped_trunks_are_refused_in_a_sentence(tmp_path):
    rng = np.random.default_rng(0)
    pictures = data.open({"image": list(rng.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8))})
    model = amodal.pretrain(
        "maestro", pictures, tmp_path / "run", size="nano", steps=1, batch_size=8, progress=False
    )
    assert "trunks of their own" in why_not_exportable(model.encoder, "image")
    with pytest.raises(AmodalError, match="trunks of their own"):
        model.export(tmp_path / "graphs", to="onnx")

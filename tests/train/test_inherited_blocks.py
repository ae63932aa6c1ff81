"""What a run takes from another one beside weights, and how deep its layers lie."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data, methods
from amodal.core import AmodalError
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.grouped_trunk import GroupedTrunk
from amodal.train.optim import layers_above
from tests.methods.bench import batch, fields


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return data.open({"image": list(rng.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8))})


def test_a_run_that_starts_from_beit_computes_what_beit_did(pictures, tmp_path):
    amodal.pretrain(
        "beit", pictures, tmp_path / "a", size="nano", steps=3, batch_size=8, progress=False,
        options={"codes": 6, "tokenizer": "kmeans"},
    )  # fmt: skip
    first = amodal.load(tmp_path / "a").encode(pictures)
    model = amodal.pretrain(
        "mae", pictures, tmp_path / "b", size="nano", steps=1, lr=1e-12, batch_size=8,
        trunk="separate", init_from=tmp_path / "a", progress=False,
    )  # fmt: skip
    encoder = model.encoder
    assert encoder.recorded_args["layer_scale"] == 0.1 and encoder.positions == "relative"
    np.testing.assert_allclose(model.encode(pictures), first, atol=1e-5)


def test_dinov3_goes_on_at_another_resolution_from_the_model_that_it_was(pictures, tmp_path):
    """The Gram teacher is what the run begins with, and axial positions are inherited."""
    small = dict(size="nano", batch_size=8, progress=False)
    options = {"prototypes": 8, "patch_prototypes": 8, "local_views": 1, "registers": 2}
    first = amodal.pretrain("dinov3", pictures, tmp_path / "a", steps=2, options=options, **small)
    anchored = {"gram_snapshot": 0.0, "gram_start": 0.0, "gram_every": 0}
    model = amodal.pretrain(
        "dinov3", pictures, tmp_path / "b", steps=2, init_from=tmp_path / "a", resolution=32,
        options=options | anchored, **small,
    )  # fmt: skip
    weights, before = model.method.gram_teacher.state_dict(), first.encoder.state_dict()
    assert before.keys() == weights.keys()
    for name, value in before.items():
        assert torch.equal(value, weights[name]), name
    assert model.encoder.fields["image"].size == 32 and int(model.method.refined) == 2
    other = amodal.pretrain(
        "simclr", pictures, tmp_path / "c", steps=1, init_from=tmp_path / "a", **small
    )
    assert other.encoder.positions == model.encoder.positions == "axial:rescale=2"


def test_layers_of_groups_lie_below_those_of_all_fields():
    torch.manual_seed(0)
    small = fields(("facts", "words"))
    encoder = Encoder(small, size="tiny", **methods.encoder_options("maestro"))
    page = methods.build("maestro", encoder, joint_depth=1)
    layers = layers_above(page)
    prefix = "encoder.trunks.all"
    assert layers[f"{prefix}.joint.all.blocks.0.up.weight"] == 1
    found = [layers[f"{prefix}.towers.facts.blocks.{i}.up.weight"] for i in range(3)]
    assert found == [4, 3, 2]


@pytest.mark.parametrize("options", [
    {"positions": "relative"}, {"positions": "alibi"}, {"layer_scale": 0.1},
    {"positions": "rotary", "size": "tiny"}, {"positions": "axial:rescale=2"},
])  # fmt: skip
def test_another_trunk_does_not_drop_what_the_first_one_had(options):
    small = fields(("facts",))
    encoder = Encoder(small, trunk="joint", **{"size": "nano"} | options)
    trunk = GroupedTrunk({"facts": "facts"}, encoder.width, 1, 2)
    with pytest.raises(AmodalError, match="replaces here"):
        encoder.set_trunk(trunk)
    if "layer_scale" not in options:
        with pytest.raises(AmodalError, match="adds embeddings of positions"):
            methods.build("maestro", encoder)


def test_what_blocks_have_learnt_stays():
    encoder = Encoder(fields(("facts",)), size="nano", pool="cls", layer_scale=0.1)
    with torch.no_grad():
        encoder.trunks["facts"].blocks[0].scale1.gain.fill_(0.7)
        encoder.pools["facts"].token.fill_(0.3)
    encoder.set_layer_scale(0.5).set_registers(2)
    assert encoder.trunks["facts"].blocks[0].scale1.gain.unique().tolist() == pytest.approx([0.7])
    pool = encoder.pools["facts"]
    assert pool.token.unique().tolist() == pytest.approx([0.3]) and len(pool.registers) == 2
    encoder.set_registers(2)
    assert encoder.pools["facts"] is pool
    encoder(batch(("plain",), sources=("facts",)))
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(AmodalError, match="layer_scale is above 0"):
            Encoder(fields(("facts",)), size="nano", layer_scale=wrong)
    for wrong in (2.5, True, 0):
        with pytest.raises(AmodalError, match="whole number"):
            Encoder(fields(("facts",)), size="nano", pool="cls").set_registers(wrong)
    with pytest.raises(AmodalError, match="1 to 1024 rows"):
        Encoder(fields(("facts",)), size="nano", positions="relative:1000000")

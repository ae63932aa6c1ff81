"""An encoder without one of its fields, or with a backbone in its place, is described as it is."""

import torch

from amodal.core.embeddings import FUSED
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import PerceptronPool
from tests.methods.bench import batch, fields


def made():
    encoder = Encoder(fields(("optical", "radar")), size="nano", positions="alibi")
    encoder.set_depths({"optical": 1, "radar": 1})
    for field in encoder.fields:
        encoder.set_pool(field, PerceptronPool(encoder.width)).extend(field, 1)
    return encoder


def assert_rebuilds(encoder):
    rebuilt = config.build(encoder.spec)
    rebuilt.load_state_dict(encoder.state_dict())
    rows = batch(("plain",), sources=tuple(encoder.fields))
    with torch.no_grad():
        for source, column in encoder(rows).columns.items():
            torch.testing.assert_close(rebuilt(rows)[source].values, column.values)


def test_a_dropped_field_leaves_nothing():
    encoder = made()
    encoder.drop("radar")
    for name in ("fields", "depths", "pools", "extra_blocks"):
        assert list(encoder.recorded_args[name]) == ["optical"]
    assert list(encoder.extra_blocks) == list(encoder.pools) == ["optical"] != [FUSED]
    assert_rebuilds(encoder)


def test_a_backbone_leaves_no_depth_of_the_tower_that_it_replaces():
    encoder = made()
    backbone = config.build(Encoder(fields(("radar",)), size="nano").spec).tokenizers["radar"]
    encoder.set_backbone("radar", backbone)
    assert list(encoder.recorded_args["depths"]) == ["optical"]
    assert list(encoder.recorded_args["pools"]) == ["optical", "radar"]

"""A class token is of use only where it meets the tokens of its value."""

import pytest

import amodal
from amodal import methods
from amodal.core import AmodalError
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.transformer import size_of
from tests.methods.bench import fields


def encoder(pool):
    photos = fields(("picture",))
    net = backbone("convnet:width=8", photos["picture"], size_of("nano").width)
    return amodal.Encoder(photos, size="nano", pool=pool, backbones={"picture": net})


def test_a_backbone_never_sees_it_so_it_is_refused():
    with pytest.raises(AmodalError, match="all values would have one vector.*mean"):
        methods.build("simclr", encoder("cls"))
    assert methods.build("simclr", encoder("mean")).encoder.pool_name == "mean"


def test_blocks_behind_the_backbone_do_see_it():
    behind = encoder("cls")
    behind.extend("picture", 1)
    behind.check_pools()

"""A class token is of use only where it meets the tokens of its value."""

import pytest

import amodal
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
        encoder("cls").check_pools()
    encoder("mean").check_pools()


def test_a_run_that_asks_for_it_is_refused_before_it_begins(folder, tmp_path):
    asked = dict(backbones={"image": "convnet:width=8"}, fields=["image"], size="nano", steps=1)
    with pytest.raises(AmodalError, match="all values would have one vector"):
        amodal.pretrain("simclr", folder, tmp_path / "run", pool="cls", progress=False, **asked)
    assert not (tmp_path / "run").exists()


def test_blocks_behind_the_backbone_do_see_it():
    behind = encoder("cls")
    behind.extend("picture", 1)
    behind.check_pools()

"""MMRL++ in the layers of a pretrained CLIP; see `test_mmrl`."""

import pytest
import torch

from amodal.nn import config
from tests.pretrained.test_mmrl import LAYERS, SPACE, hold_two_steps, made, records
from tests.tiny_clip import clip_folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"), SPACE, layers=LAYERS)


def test_two_steps_in_a_clip(pair):
    hold_two_steps(pair, "mmrl_pp", 0.9)


def test_at_the_start_the_representation_is_projected_as_the_class_token_is(pair):
    folder, model = pair
    head = made("mmrl_pp", folder).heads["image"]
    torch.testing.assert_close(head.weight, model.visual_projection.weight)


def test_a_saved_encoder_needs_no_folder(pair):
    m = made("mmrl_pp", pair[0]).eval()
    with torch.no_grad():
        m.encoder.block_hook.bank.normal_()
    same = config.build(m.encoder.spec).eval()
    same.load_state_dict(m.encoder.state_dict())
    batch = records(m)
    with torch.no_grad():
        torch.testing.assert_close(same(batch)["image"].values, m.encoder(batch)["image"].values)

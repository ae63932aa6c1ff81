"""What STRUCTURE's heads see of a frozen backbone: with `isometry` the model's own geometry."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError
from tests.methods.bench import batch, exact, method

NETS = {"picture": "convnet:width=8,stages=2"}


def cosines(x):
    x = normalize(x, dim=1)
    return x @ x.T


@pytest.mark.parametrize("isometry", [True, False])
def test_features_have_the_cosines_of_the_backbone(isometry):
    m = exact(
        method("structure_reg", sources=("picture", "words"), backbones=NETS, isometry=isometry)
    )
    m.eval()
    rows = exact(batch(("plain",), sources=("picture", "words")))
    features = m.features(rows).frozen["picture"].flat
    flat, lengths, _ = m.encoder.tokenizers["picture"].features(rows["picture"])
    own = torch.stack([part.mean(0) for part in flat.split(lengths.tolist())])
    same = torch.allclose(cosines(features), cosines(own), atol=1e-9)
    assert same == isometry
    assert not any(p.requires_grad for p in m.encoder.tokenizers.parameters())


def test_an_isometry_needs_a_backbone_and_room():
    with pytest.raises(AmodalError, match="no field has one"):
        method("structure_reg", isometry=True)
    wide = {"picture": "convnet:width=64,stages=2"}
    with pytest.raises(AmodalError, match="gives 128 dimensions, and the encoder has 64"):
        method("structure_reg", backbones=wide, isometry=True)

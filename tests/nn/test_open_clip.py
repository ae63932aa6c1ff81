"""Halves of models of open_clip, beside open_clip's own vectors of pictures and texts."""

import json

import pytest
import torch

from amodal.core import AmodalError, Column
from amodal.modalities import make
from amodal.nn.backbones.libraries import input_size, text_input
from amodal.nn.backbones.pretrained import Backbone, backbone

open_clip = pytest.importorskip("open_clip")
NAME = "tiny-for-tests"
TEXTS = [
    "A photo of a Cat's  tail, 1984!",
    "naïve café — 漢字 😀",
    "hello\nworld " * 3,
    "don't I've",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model among those of open_clip, its weights in a file, and the model."""
    folder = tmp_path_factory.mktemp("open_clip")
    side = {"layers": 2, "width": 64}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 32, **side},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **side},
    }
    (folder / f"{NAME}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME).eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    return f"open_clip:{NAME}@{folder / 'weights.pt'}", model


def texts_of(spec, cache):
    vocabulary, room = text_input(spec, make("text"), cache)
    field = make("text", vocabulary=vocabulary, patch=1, max_length=room)
    return field, Column(field.collate([field.decode(t) for t in TEXTS]), torch.arange(len(TEXTS)))


def test_texts(tiny, tmp_path):
    spec, model = tiny
    field, column = texts_of(spec, tmp_path)
    tokens = open_clip.get_tokenizer(NAME)(TEXTS)
    for text, row in zip(TEXTS, tokens.tolist()):
        assert field.decode(text).tolist() == row[1 : row.index(49407)]
    made = backbone(spec, field, 16)
    with torch.no_grad():
        torch.testing.assert_close(made.features(column)[0], model.encode_text(tokens))
    assert made.report.share == 1 and made.body.is_space
    rebuilt = Backbone.from_args(**made._args)
    rebuilt.load_state_dict(made.state_dict())
    assert torch.equal(rebuilt.features(column)[0], made.features(column)[0])


def test_pictures(tiny):
    spec, model = tiny
    field = make("image", size=32, patch=16)
    assert input_size(spec, field) == 32
    made = backbone(spec, field, 16)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(numbers).view(3, 1, 1)
        for numbers in (model.visual.image_mean, model.visual.image_std)
    )
    with torch.no_grad():
        want = model.encode_image((x - mean) / std)
        torch.testing.assert_close(made.features(Column(x, torch.arange(2)))[0], want)
    scratch = backbone(f"open_clip:{NAME}@scratch", field, 16)
    assert any(p.requires_grad for p in scratch.body.parameters()) and not scratch.report


def test_what_is_not_there_is_refused(tiny, tmp_path):
    image = make("image", size=32, patch=16)
    with pytest.raises(AmodalError, match="no model of open_clip.*'ViT-B-33'.*ViT-B-32"):
        backbone("open_clip:ViT-B-33@openai", image, 16)
    with pytest.raises(AmodalError, match="no weights of open_clip:ViT-B-32.*'openia'.*openai"):
        backbone("open_clip:ViT-B-32@openia", image, 16)
    with pytest.raises(AmodalError, match="there is no weights file"):
        backbone(f"open_clip:{NAME}@{tmp_path}/none.pt", image, 16)
    (tmp_path / "torn.pt").write_bytes(b"torn")
    with pytest.raises(AmodalError, match="open_clip could not make"):
        backbone(f"open_clip:{NAME}@{tmp_path}/torn.pt", image, 16)
    with pytest.raises(AmodalError, match="names no weights"):
        backbone(f"open_clip:{NAME}", image, 16)
    with pytest.raises(AmodalError, match="ViT-B-16-SigLIP reads the ids of"):
        text_input("open_clip:ViT-B-16-SigLIP@webli", make("text"), tmp_path)
    with pytest.raises(AmodalError, match="ids of bytes: leave vocabulary out"):
        backbone(tiny[0], make("text"), 16)
    field, _ = texts_of(tiny[0], tmp_path)
    longer = make("text", vocabulary=field.vocabulary, patch=1, max_length=76)
    with pytest.raises(AmodalError, match="75 ids at most.*76: set max_length = 75"):
        backbone(tiny[0], longer, 16)

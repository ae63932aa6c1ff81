"""Both halves of one pretrained pair as backbones, in the space that they share: a tiny CLIP."""

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError, Batch, Column
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder
from tests.tiny_clip import clip_folder

WIDTH = 24


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"), WIDTH)


@pytest.fixture(scope="module")
def fields(pair):
    return {
        "image": make("image", size=32, channels=3, patch=16),
        "text": make("text", vocabulary=str(pair[0]), max_length=10),
    }


def records(fields):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    texts = ["a red apple", "green pear and a red pear", "apple"]
    columns = {}
    for name, raws in (("image", images), ("text", texts)):
        values = [fields[name].decode(raw) for raw in raws]
        columns[name] = Column(fields[name].collate(values), torch.arange(3))
    return Batch.of(3, columns, ["a", "b", "c"])


def vectors_of_the_library(pair, batch):
    """What transformers itself makes of the values."""
    _, model = pair
    pixels = (batch["image"].values - 0.4) / 0.25
    ids = [[5, *t.tolist(), 12] for t in batch["text"].values.flat.split([3, 6, 1])]
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = [model.get_text_features(input_ids=torch.tensor([t])).pooler_output for t in ids]
    return image, torch.cat(text)


def both(pair):
    return {field: f"transformers:{pair[0]}@projected" for field in ("image", "text")}


@pytest.mark.parametrize("frozen", [True, False])
def test_an_encoder_begins_in_the_space_of_the_pair(pair, fields, frozen):
    nets = config.backbones(both(pair), fields, "nano", frozen=frozen)
    encoder = Encoder(fields, size="nano", backbones=nets).align(WIDTH).eval()
    batch = records(fields)
    with torch.no_grad():
        z, features = encoder(batch), encoder.features(batch)
    for field, expected in zip(("image", "text"), vectors_of_the_library(pair, batch)):
        torch.testing.assert_close(z[field].values, expected, rtol=1e-4, atol=1e-5)
        # what a page with a head of its own reads
        own = features[field].values
        torch.testing.assert_close(own[:, :WIDTH], expected, rtol=1e-4, atol=1e-5)
        assert not own[:, WIDTH:].any() and encoder.space_of(field) == WIDTH
        learns = {n for n, p in encoder.named_parameters() if p.requires_grad and field in n}
        assert f"heads.{field}.weight" in learns and f"field_token.{field}" not in learns
        assert not any("project." in n and "body" not in n for n in learns)
        assert any(".body." in n for n in learns) is not frozen
    names = " ".join(encoder.state_dict())
    assert "tokenizers.image.body.model.text_model" not in names
    assert "tokenizers.text.body.model.vision_model" not in names


def test_a_locked_half_stays_and_a_saved_encoder_needs_no_folder(pair, fields):
    nets = config.backbones(both(pair), fields, "nano")
    encoder = Encoder(fields, size="nano", backbones=nets).align(WIDTH)
    encoder.lock("image")
    assert not encoder.tokenizers["image"].project.weight.requires_grad
    spec = str(encoder.spec).replace(f"{pair[0]}@", "/nowhere@")
    assert "/nowhere@projected#" in spec
    same = config.build(eval(spec)).eval()
    same.load_state_dict(encoder.state_dict())
    batch = records(fields)
    for field, column in encoder.eval()(batch).columns.items():
        torch.testing.assert_close(same(batch)[field].values, column.values)


def test_what_does_not_fit_is_said(pair, fields, tmp_path):
    with pytest.raises(AmodalError, match="cannot hold: take a larger --size"):
        backbone(f"transformers:{pair[0]}@projected", fields["image"], WIDTH - 1)
    nets = config.backbones(both(pair), fields, "nano")
    with pytest.raises(AmodalError, match=f"set --method.width {WIDTH}"):
        Encoder(fields, size="nano", backbones=nets).align(WIDTH - 1)
    with pytest.raises(AmodalError, match="no @first, @last or @layer"):
        backbone(f"transformers:{pair[0]}@first@projected", fields["text"], 64)
    from transformers import ViTConfig, ViTModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    ViTModel(ViTConfig(**shape, intermediate_size=16)).save_pretrained(tmp_path)
    with pytest.raises(AmodalError, match="models of two kinds that share a space"):
        backbone(f"transformers:{tmp_path}@projected", fields["image"], 64)


def test_one_step_without_a_rate_is_the_pair_as_a_run(pair, tmp_path):
    """And texts of any length are read as far as the model does."""
    rng = np.random.default_rng(0)
    data = {
        "image": [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(40)],
        "text": ["a red apple and " * int(rng.integers(1, 9)) for _ in range(40)],
    }
    model = amodal.pretrain(
        "clip",
        data,
        tmp_path / "run",
        backbones=both(pair),
        steps=1,
        lr=0.0,
        batch_size=8,
        size="nano",
        options={"width": WIDTH},
    )
    assert model.fields["text"].max_length == 12 and model.fields["image"].size == 32
    pears = {"image": data["image"][:1], "text": ["green pear"]}
    z = model.embed(pears).aligned["text"].values
    with torch.no_grad():
        expected = pair[1].get_text_features(input_ids=torch.tensor([[5, 7, 9, 12]]))
    expected = torch.nn.functional.normalize(expected.pooler_output, dim=1)
    got = torch.nn.functional.normalize(torch.as_tensor(z).float(), dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-3)

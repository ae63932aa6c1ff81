"""MCL from a pretrained CLIP: the first stage stays, texts are locked, upper layers learn."""

import numpy as np
import pytest
import torch

import amodal
from amodal import methods
from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.encoder import Encoder
from tests.tiny_clip import clip_folder

WIDTH = 24


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"), WIDTH, layers=3)


def specs(folder):
    return {field: f"transformers:{folder}@projected" for field in ("image", "text")}


def made(folder, **options):
    fields = {
        "image": make("image", size=32, channels=3, patch=16),
        "text": make("text", vocabulary=str(folder), max_length=10),
    }
    torch.manual_seed(0)
    nets = config.backbones(specs(folder), fields, "nano")
    encoder = Encoder(fields, size="nano", backbones=nets)
    options = {"parts": 3, "clusters": 2, "width": 8, "first": "keep"} | options
    return methods.build("mcl_multistage", encoder, **options)


def test_only_the_last_layers_of_pictures_learn_and_the_first_stage_does_not(pair):
    m = made(pair[0], locked="text", unlocked=1)
    assert m.stages == (0.5, 1.0) and m.refresh_first
    for stage in (0, 1):
        m.on_stage_start(stage)
        learns = {n for n, p in m.named_parameters() if p.requires_grad}
        body = f"encoder.members.{stage + 1}.tokenizers.image.body."
        of_body = {n.removeprefix(body) for n in learns if n.startswith(body)}
        assert learns == {body + n for n in of_body} | {f"stage_heads.{stage + 1}.log"}
        assert all(
            n.startswith(("model.encoder.layers.2.", "model.post_layernorm", "to_space"))
            for n in of_body
        )
        assert {"to_space.weight", "model.post_layernorm.weight"} < of_body
        assert "model.encoder.layers.2.mlp.fc1.weight" in of_body


def test_vectors_begin_as_those_of_the_clip_and_groups_are_its_clusters(pair):
    folder, model = pair
    m = made(folder, locked="text", unlocked=2, cluster_field="image").eval()
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.random((12, 3, 32, 32)), dtype=torch.float32)
    z = Embeddings({"image": Column(images, torch.arange(12))}, 12)
    batch = Batch.of(12, {"image": z["image"]})
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=(images - 0.4) / 0.25).pooler_output
        for member in m.encoder.members:
            got = member(batch)["image"].values
            assert got.shape == (12, WIDTH)  # 8 was asked for, less than the CLIP has
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        features = m.encoder.features(batch)
        first, second = (m.refresh(stage, lambda: features) for stage in (0, 1))
        of_clip, of_next = (m.clustered(i, features) for i in (0, 1))
    same = lambda a, b: torch.equal(a[:, None] == a, b[:, None] == b)  # noqa: E731
    assert same(first, of_clip)
    assert same(second, of_clip * 10 + of_next)


def test_it_goes_on_where_the_stage_before_ended_only_if_asked(pair):
    for carry_on in (False, True):
        m = made(pair[0], locked="text", unlocked=1, carry_on=carry_on)
        weight = [member.tokenizers["image"].body.to_space.weight for member in m.encoder.members]
        with torch.no_grad():
            weight[1] += 1
        none = Embeddings({"image": Column(torch.zeros(0, 3 * 64), torch.arange(0))}, 0)
        m.refresh(1, lambda none=none: none)
        assert torch.equal(weight[2], weight[1]) is carry_on
        assert torch.equal(weight[2], weight[0]) is not carry_on


def test_wrong_options_are_refused(pair):
    folder = pair[0]
    for options, message in (
        ({"first": "kep"}, "Did you mean keep"),
        ({"parts": 1}, "needs a second one"),
        ({"locked": "txt"}, "Did you mean text"),
        ({"locked": "text", "unlocked": 4}, "has 3 layers, of which 4"),
        ({"locked": "text,image"}, "nothing is left to learn"),
        ({"locked": "text,image", "unlocked": 1}, "of layers of pretrained backbones"),
        ({"unlocked": -1}, "below 0"),
    ):
        with pytest.raises(AmodalError, match=message):
            made(folder, **options)


def test_a_run_leaves_the_clip_as_it_was_and_trains_the_others(pair, tmp_path):
    folder, model = pair
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(60)]
    texts = [f"a {rng.choice(['red', 'green'])} {'a ' * int(i % 5)}pear" for i in range(60)]
    run = amodal.pretrain(
        "mcl_multistage",
        amodal.open({"image": pictures, "text": texts}, fields={"text": "text"}),
        tmp_path / "run",
        backbones=specs(folder),
        size="nano",
        steps=6,
        batch_size=8,
        lr=0.01,
        progress=False,
        options={
            "width": WIDTH,
            "parts": 3,
            "clusters": 2,
            "first": "keep",
            "locked": "text",
            "unlocked": 1,
            "temperature": 0.01,
        },
    )
    state = model.vision_model.state_dict()
    name = "encoder.layers.2.mlp.fc1.weight"
    bodies = [member.tokenizers["image"].body.model.state_dict() for member in run.encoder.members]
    assert torch.equal(bodies[0][name], state[name])
    assert not any(torch.equal(body[name], state[name]) for body in bodies[1:])
    lower = "encoder.layers.1.mlp.fc1.weight"
    assert all(torch.equal(body[lower], state[lower]) for body in bodies)
    assert run.embed({"image": pictures[:2], "text": texts[:2]}).aligned["image"].values.shape == (
        2,
        3 * WIDTH,
    )

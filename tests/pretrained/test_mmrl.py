"""MMRL in the layers of a pretrained CLIP, against one value at a time from the layers
of transformers and the paper's formulas."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

import amodal
from amodal import methods
from amodal.core import AmodalError, Batch, Column
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from tests.tiny_clip import clip_folder

SPACE, LAYERS, FIRST, K = 24, 4, 1, 3
CLASSES = ("apple", "green_pear", "red")
IDS = [[6, 10], [6, 7, 9], [6, 8]]
"""Of the words in "a apple", "a green pear" and "a red"."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"), SPACE, layers=LAYERS)


def specs(folder):
    return {field: f"transformers:{folder}@projected" for field in ("image", "text")}


def made(name, folder, **options):
    fields = {
        "image": make("image", size=32, channels=3, patch=16),
        "text": make("text", vocabulary=str(folder), max_length=10),
    }
    torch.manual_seed(0)
    encoder = Encoder(
        fields, size="nano", backbones=config.backbones(specs(folder), fields, "nano")
    )
    options = {"count": K, "space": 8, "template": "a {}", "scale": 10.0, "alpha": 0.6} | options
    targets = (Target("kind", "classes", CLASSES),)
    return methods.build(name, encoder, targets=targets, weight=2.0, **options)


def records(m, size=4):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(size)]
    values = m.encoder.fields["image"].collate(
        [m.encoder.fields["image"].decode(i) for i in images]
    )
    batch = Batch.of(size, {"image": Column(values, torch.arange(size))})
    label = Column(torch.tensor([0, 2, 1, 0])[:size], torch.arange(size))
    return Batch(size, batch.columns, batch.keys, batch.seeds, {"kind": label})


def through(layers, x_LD, tokens, beta, causal):
    """A value after all layers, and its tokens; `tokens` maps the number of a layer to its own."""
    for i, layer in enumerate(layers):
        if tokens is not None and i >= FIRST:
            former = x_LD[1:1] if i == FIRST else x_LD[1 : 1 + K]
            rest = x_LD[1:] if i == FIRST else x_LD[1 + K :]
            new = tokens(i - FIRST)
            new = new if i == FIRST else beta * new + (1 - beta) * former
            x_LD = torch.cat([x_LD[:1], new, rest])
        mask = torch.full((len(x_LD), len(x_LD)), -torch.inf).triu(1)[None, None]
        x_LD = layer(x_LD[None], mask if causal else None)[0]
    return x_LD


def picture(model, pixels_CHW, tokens, beta, projection):
    """Class feature and representation feature of a picture."""
    tower = model.vision_model
    x_LD = tower.pre_layrnorm(tower.embeddings(pixels_CHW[None]))[0]
    x_LD = tower.post_layernorm(through(tower.encoder.layers, x_LD, tokens, beta, False))
    f_c = model.visual_projection(x_LD[0])
    return f_c, None if tokens is None else projection(x_LD[1 : 1 + K].mean(0))


def name_of_class(model, ids, tokens, beta):
    tower = model.text_model
    x_LD = tower.embeddings(torch.tensor([[5, *ids, 12]]))[0]
    x_LD = tower.final_layer_norm(through(tower.encoder.layers, x_LD, tokens, beta, True))
    return model.text_projection(x_LD[-1])


def tokens_of(m, field):
    hook = m.encoder.block_hook
    return lambda i: hook.maps[field](hook.bank, i)


def loss_by_hand(m, model, batch, beta):
    head = m.heads["image"]
    images = (batch["image"].values - 0.4) / 0.25
    image_tokens, text_tokens = tokens_of(m, "image"), tokens_of(m, "text")
    with torch.no_grad():
        before = [picture(model, x, None, beta, head)[0] for x in images]
        names_before = [name_of_class(model, ids, None, beta) for ids in IDS]
    names = torch.stack([name_of_class(model, ids, text_tokens, beta) for ids in IDS])
    both = [picture(model, x, image_tokens, beta, head) for x in images]
    f_c, f_r = (torch.stack([b[i] for b in both]) for i in (0, 1))
    label = batch.labels["kind"].values
    ce = [
        cross_entropy(10 * normalize(f, dim=1) @ normalize(names, dim=1).T, label)
        for f in (f_c, f_r)
    ]
    near = 2 * (1 - cosine_similarity(f_c, torch.stack(before)).mean())
    near_names = 2 * (1 - cosine_similarity(names, torch.stack(names_before)).mean())
    return 0.6 * ce[0] + 0.4 * ce[1], near, near_names


def hold_two_steps(pair, name, beta):
    """Loss and gradients are those of the paper, and the pair stays as it is."""
    folder, model = pair
    m = made(name, folder)
    state = {n: p.detach().clone() for n, p in m.encoder.named_parameters()}
    batch = records(m)
    optimizer = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.3)
    learns = {n for n, p in m.named_parameters() if p.requires_grad}
    assert learns and all(n.startswith(("encoder.block_hook.", "heads.image.")) for n in learns)
    for _ in range(2):
        terms = m.losses(m.features(batch))
        by_hand = loss_by_hand(m, model, batch, beta)
        got = [terms[n] for n in ("supervised/image", "near/image", "near/names")]
        torch.testing.assert_close(torch.stack(got), torch.stack(by_hand), rtol=1e-4, atol=1e-5)
        parameters = {n: p for n, p in m.named_parameters() if p.requires_grad}
        wanted = torch.autograd.grad(sum(by_hand), parameters.values(), allow_unused=True)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        for (n, p), g in zip(parameters.items(), wanted):
            torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-4, msg=n)
        optimizer.step()
    moved = {n for n, p in m.encoder.named_parameters() if not torch.equal(p, state[n])}
    assert moved and all(n.startswith("block_hook.") for n in moved)


def test_two_steps_in_a_clip(pair):
    hold_two_steps(pair, "mmrl", 1.0)


def test_at_the_start_the_representation_is_projected_as_the_class_token_is(pair):
    folder, model = pair
    head = made("mmrl", folder).heads["image"]
    torch.testing.assert_close(head.weight, model.visual_projection.weight)
    hook = made("mmrl", folder).encoder.block_hook
    assert hook.first == {"image": 1, "text": 1} and hook.depth == {"image": 4, "text": 4}
    assert [hook.maps[f].linears[0].out_features for f in ("image", "text")] == [20, 16]
    assert made("mmrl", folder, first=3).encoder.block_hook.first == {"image": 2, "text": 2}


def test_inference_is_apart_for_classes_learnt_and_for_others(pair):
    """Classes learnt are named by both features, others by class features; without tokens the
    encoder is the pair as it was."""
    folder, model = pair
    m = made("mmrl", folder).eval()
    with torch.no_grad():
        m.encoder.block_hook.bank.normal_()
        batch = records(m)
        images = (batch["image"].values - 0.4) / 0.25
        own = tokens_of(m, "image"), tokens_of(m, "text")
        both = [picture(model, x, own[0], 1.0, m.heads["image"]) for x in images]
        names = normalize(torch.stack([name_of_class(model, i, own[1], 1.0) for i in IDS]), dim=1)
        p = [
            (10 * normalize(torch.stack([b[k] for b in both]), dim=1) @ names.T).softmax(1)
            for k in (0, 1)
        ]
        predicted = m.predict(batch).values.exp()
        torch.testing.assert_close(predicted, 0.6 * p[0] + 0.4 * p[1], rtol=1e-4, atol=1e-5)
        new = m.probabilities(batch, list(CLASSES), mixed=None)["image"].values
        torch.testing.assert_close(new, p[0], rtol=1e-4, atol=1e-5)
        seen = m.encoder(batch)["image"].values[:, :SPACE]
        torch.testing.assert_close(seen, torch.stack([b[0] for b in both]), rtol=1e-4, atol=1e-5)
        with m.encoder.use_block_hook(None):
            plain = m.encoder(batch)["image"].values[:, :SPACE]
        expected = model.get_image_features(pixel_values=images).pooler_output
        torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_pictures(pair):
    m = made("mmrl", pair[0])
    empty = records(m).between(0, 0)
    terms = m.losses(m.features(empty))
    assert terms["supervised/image"] == 0 and all(torch.isfinite(t) for t in terms.values())


def test_other_backbones_are_refused(pair):
    folder = pair[0]
    fields = {
        "image": make("image", size=32, channels=3, patch=16),
        "text": make("text", vocabulary=str(folder), max_length=10),
    }
    nets = config.backbones(specs(folder) | {"text": f"transformers:{folder}"}, fields, "nano")
    encoder = Encoder(fields, size="nano", backbones=nets)
    with pytest.raises(AmodalError, match="the two halves of a CLIP, and the backbone of 'text'"):
        methods.build("mmrl", encoder, targets=(Target("kind", "classes", CLASSES),))


def test_from_a_clip_to_names_of_classes(pair, tmp_path):
    """The commands: a CLIP as a run, adapted to half of the classes. These are named by both
    features, the others by class features."""
    rng = np.random.default_rng(0)
    bright = {"apple": [0], "green": [1], "pear": [2], "red": [0, 1]}
    kinds = [list(bright)[i % 4] for i in range(120)]
    pictures = [rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) for _ in kinds]
    for picture, kind in zip(pictures, kinds):
        picture[..., bright[kind]] += 180
    texts = [f"a {k} and {'a ' * int(rng.integers(1, 5))}pear" for k in kinds]
    data = amodal.open(
        {"image": pictures, "text": texts, "kind": np.array(kinds)}, fields={"text": "text"}
    )
    clip = amodal.pretrain(
        "clip",
        data,
        tmp_path / "clip",
        backbones=specs(pair[0]),
        options={"width": SPACE},
        steps=1,
        lr=0.0,
        size="nano",
        batch_size=8,
    )
    model = clip.adapt(
        data,
        tmp_path / "mmrl",
        label="kind",
        tuning="mmrl",
        base_to_new=True,
        steps=150,
        lr=0.02,
        batch_size=16,
        options={"space": 16, "template": "a {}", "weight": 0.1, "scale": 30.0},
    )
    table = model.predict(data)
    named = dict(zip(table["key"].to_pylist(), table["kind"].to_pylist()))
    assert set(named.values()) == {"apple", "green"}
    tested = [data.keys[i] for part in ("valid", "test") for i in data.split(part)]
    truth = dict(zip(data.keys, kinds))
    right = [named[key] == truth[key] for key in tested if truth[key] in ("apple", "green")]
    report = model.evaluate(data, protocols=["base_to_new"], label="kind")
    rows = report["base_to_new"].rows
    scores = {(r["source"], r["target"]): r for r in rows}
    base = scores["image, base by the head", "base"]
    assert base["value"] == pytest.approx(np.mean(right)) and base["n"] == len(right)
    assert base["value"] > 0.8
    new = [scores[s, "new"]["value"] for s in ("image", "image, base by the head")]
    assert new[0] == new[1]
    both = scores["image, base by the head", "harmonic mean"]["value"]
    assert both == pytest.approx(2 * base["value"] * new[0] / (base["value"] + new[0]))

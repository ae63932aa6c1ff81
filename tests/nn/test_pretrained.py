"""Pretrained backbones on tiny random models: faces, weights and their report, errors, and the way
through a checkpoint."""

import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import bag_of

from amodal.core import AmodalError, Batch, Column, Ragged, Tokens
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.attention.masks import pure
from amodal.nn.backbones.body import LoadReport
from amodal.nn.backbones.pretrained import Backbone, backbone
from amodal.nn.encoder import Encoder
from amodal.nn.hidden_dropout import hidden_dropout
from amodal.nn.transformer import Transformer

IMAGE = make("image", size=16, patch=4)
VIT = "vit_tiny_patch16_224"
WORDS = ["a", "red", "green", "apple", "pear", "and"]


def images(rows=(0, 2), channels=3, side=16, seed=0):
    values = torch.rand(
        len(rows), channels, side, side, generator=torch.Generator().manual_seed(seed)
    )
    return Column(values, torch.tensor(rows, dtype=torch.int64))


def texts(*lengths):
    ids = torch.randint(5, 10, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return Column(Ragged(ids, torch.tensor(lengths, dtype=torch.int64)), torch.arange(len(lengths)))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A ViT for 32 pixels with a head of ten classes, saved as a file; and the model."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(VIT, img_size=32, num_classes=10).eval()
    path = tmp_path_factory.mktemp("vit") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path, model


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bert")
    vocabulary = {
        w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=special
    )
    tokenizer.save(str(path / "tokenizer.json"))
    shape = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = BertModel(
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=20, **shape)
    ).eval()
    model.save_pretrained(path)
    return path, model, make("text", vocabulary=str(path), max_length=16)


# Images


def test_a_class_token_may_stand_before_the_patches(vit):
    path, model = vit
    tower = backbone(f"timm:{VIT}:32/class@{path}", IMAGE, 8)
    bag = tower(images(), "image", 3)
    assert bag.lengths().tolist() == [5, 0, 5] and tower.body.prefix_tokens == 1
    plain = backbone(f"timm:{VIT}:32@{path}", IMAGE, 8)
    with torch.no_grad():
        want = model.forward_features(plain.body.scaled(images().values))
        patches, _, place = plain.body(images().values)
        got, _, position = tower.body(images().values)
    torch.testing.assert_close(got, want.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(position.view(2, 5, 3)[:, 1:].flatten(0, 1), place) and not position[0].any()
    torch.testing.assert_close(got.view(2, 5, -1)[:, 1:].flatten(0, 1), patches)
    with pytest.raises(AmodalError, match="no class token; leave /class out"):
        backbone("timm:resnet18:32/class@scratch", IMAGE, 8)


def test_a_vit_gives_its_patches_with_the_weights_of_the_file(vit):
    path, model = vit
    tower = backbone(f"timm:{VIT}:32@{path}", IMAGE, 8)
    column = images()
    bag = tower(column, "image", 3)
    assert bag.names == ("image",) and bag.lengths().tolist() == [4, 0, 4] and bag.x.shape == (8, 8)
    # 2 x 2 tokens on the field's own grid of 4 x 4 patches
    assert bag.position[:4].tolist() == [[0, 0.5, 0.5], [0, 0.5, 2.5], [0, 2.5, 0.5], [0, 2.5, 2.5]]
    scaled = torch.nn.functional.interpolate(
        column.values * 2 - 1, (32, 32), mode="bicubic", antialias=True
    )
    with torch.no_grad():
        want = tower.project(model.forward_features(scaled)[:, 1:].flatten(0, 1))
    torch.testing.assert_close(bag.x, want, rtol=1e-4, atol=1e-5)
    assert tower.contextual and tower.report.unexpected == ("head.bias", "head.weight")
    assert str(tower.report) == (
        f"{path}: {len(model.state_dict()) - 2} tensors matched (100.0% of the numbers); 0 missing; "
        "2 unexpected (head.bias, head.weight); 0 of another shape"
    )


def test_positions_of_a_vit_are_resampled_to_another_size(vit):
    tower = backbone(f"timm:{VIT}:48@{vit[0]}", IMAGE, 8)
    assert tower(images(), "image", 3).lengths().tolist() == [9, 0, 9] and tower.report.share == 1


@pytest.mark.parametrize(
    "name, tokens", [("resnet18", 1), ("convnext_atto", 1), ("swin_tiny_patch4_window7_224:56", 4)]
)
def test_models_with_feature_maps(name, tokens, tmp_path):
    import timm

    if "swin" in name:
        tower = backbone(f"timm:{name}", IMAGE, 8, frozen=False)
    else:
        save_file(timm.create_model(name).state_dict(), tmp_path / "w.safetensors")
        tower = backbone(f"timm:{name}:32@{tmp_path / 'w.safetensors'}", IMAGE, 8)
        assert tower.report.share == 1
    tower.train()
    column = images((0, 1, 2))
    bag = tower(column, "image", 3)
    assert bag.lengths().tolist() == [tokens] * 3
    alone = tower(images((0, 1, 2)).between(1, 2), "image", 1)  # no batch statistics
    torch.testing.assert_close(alone.x, bag.keep(bag.row == 1).x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_or_not(vit, frozen):
    tower = backbone(f"timm:{VIT}:32@{vit[0]}", IMAGE, 8, frozen=frozen)
    tower.train()
    assert not any(m.training for m in tower.body.modules()) and tower.project.training
    assert all(p.requires_grad is not frozen for p in tower.body.parameters())
    for column in (images(), images(())):
        tower.zero_grad()
        tower(column, "image", 3).x.sum().backward()
        assert all((p.grad is None) == frozen for p in tower.body.parameters())
        assert all(p.grad is not None for p in tower.project.parameters())


def test_grey_images_and_fields_in_units_of_their_own(vit):
    spec = f"timm:{VIT}:32@{vit[0]}"
    grey = backbone(spec, make("image", size=16, channels=1), 8)
    column = images(channels=1)
    colour = backbone(spec, IMAGE, 8)
    colour.load_state_dict(grey.state_dict())
    three = Column(column.values.expand(-1, 3, -1, -1), column.rows)
    torch.testing.assert_close(grey(column, "i", 3).x, colour(three, "i", 3).x)
    relief = backbone(spec, make("image", size=16, channels=1, mean=[-900.0], std=[2500.0]), 8)
    assert relief.body.mean.item() == -900 and relief.body.std.item() == 2500
    measured = backbone(spec, make("image", size=16, mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.2]), 8)
    assert measured.body.mean.flatten().tolist() == [0.5, 0.5, 0.5]  # the backbone's own


def test_what_does_not_fit_is_said(vit, bert, tmp_path, monkeypatch):
    path = vit[0]
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    text = bert[2]
    for wrong, message in [
        (lambda: backbone("tim:resnet18", IMAGE, 8), "Did you mean timm"),
        (lambda: backbone("timm", IMAGE, 8), "Expected timm:NAME@WEIGHTS"),
        (
            lambda: backbone("timm:resnet81@x", IMAGE, 8),
            "no model of timm is called 'resnet81'. Did you mean resnet18",
        ),
        (
            lambda: backbone("timm:resnet18", text, 8),
            "timm backbones are for image fields, but this field is text",
        ),
        (lambda: backbone("timm:resnet18", IMAGE, 8), "names no weights, so it would stay random"),
        (
            lambda: backbone(f"timm:resnet18:big@{path}", IMAGE, 8),
            "must be a number of pixels, got 'big'",
        ),
        (
            lambda: backbone("timm:resnet18@/no/such/file", IMAGE, 8),
            "there is no weights file /no/such/file",
        ),
        (
            lambda: backbone(f"timm:resnet18@{tmp_path}/bad.safetensors", IMAGE, 8),
            "cannot read the weights",
        ),
        (
            lambda: backbone(f"timm:resnet18:32@{path}", IMAGE, 8),
            "these weights are not of this model",
        ),
        (
            lambda: backbone(f"timm:{VIT}:32@{tmp_path}/other.safetensors", IMAGE, 8),
            "0 tensors matched (0.0% of the numbers)",
        ),
        (
            lambda: backbone(f"timm:{VIT}:20@{path}", make("image", channels=4), 8),
            "see 1 or 3 channels, and this field has 4",
        ),
        (
            lambda: backbone("transformers:/no/such/dir", text, 8),
            "there is no directory /no/such/dir",
        ),
        (lambda: backbone(f"transformers:{tmp_path}", text, 8), "holds no model of transformers"),
        (lambda: backbone(f"transformers:{bert[0]}", make("text"), 8), "set vocabulary = "),
        (
            lambda: backbone(
                f"transformers:{bert[0]}", make("text", vocabulary=str(bert[0]), max_length=40), 8
            ),
            "set max_length = 18",
        ),
    ]:
        with pytest.raises(AmodalError, match=re.escape(message)):
            wrong()
    assert (
        backbone(f"timm:{VIT}:32@{tmp_path}/other.safetensors", IMAGE, 8, min_share=0).report.share
        == 0
    )
    for package, extra in (("timm", "vision"), ("transformers", "language")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(AmodalError, match=rf"pip install 'amodal\[{extra}\]'"):
            backbone(f"{package}:x", IMAGE, 8)


def test_report_counts():
    model = {"a": torch.zeros(6), "b": torch.zeros(2, 2), "c": torch.zeros(2)}
    report = LoadReport.of(
        "file", model, {"a": torch.zeros(6), "b": torch.zeros(4), "z": torch.zeros(1)}
    )
    assert (report.matched, report.missing, report.unexpected) == (("a",), ("c",), ("z",))
    assert report.mismatched == (("b", (2, 2), (4,)),) and report.share == 0.5
    assert str(report) == (
        "file: 1 tensors matched (50.0% of the numbers); 1 missing (c); 1 unexpected (z); "
        "1 of another shape (b [2, 2], in the file [4])"
    )


# Text


def test_the_special_token_before_a_text_stands_for_it(bert):
    path, model, text = bert
    tower = backbone(f"transformers:{path}@first", text, 8)
    column = texts(3, 1, 16)
    bag = tower(column, "text", 3)
    assert bag.lengths().tolist() == [1, 1, 1] and not bag.position.any()
    for row, ids in enumerate(column.values.split()):
        with torch.no_grad():
            first = model(torch.tensor([[2, *ids.tolist(), 3]])).last_hidden_state[0, :1]
            torch.testing.assert_close(
                bag.x[row : row + 1], tower.project(first), rtol=1e-4, atol=1e-5
            )
    assert len(tower(texts(), "text", 2)) == 0
    copy = Backbone.from_args(spec=tower.name, modality=text, width=8)
    copy.load_state_dict(tower.state_dict())
    assert torch.equal(copy(column, "text", 3).x, bag.x)
    random = backbone(f"transformers:{path}@first@scratch", text, 8)
    assert random.body.is_scratch and random(column, "text", 3).lengths().tolist() == [1, 1, 1]
    with pytest.raises(AmodalError, match="@first is for text"):
        backbone(f"transformers:{path}@first", IMAGE, 8)


def test_the_special_token_behind_a_text_stands_for_it(bert):
    path, model, modality = bert
    column = texts(3, 1)
    net = backbone(f"transformers:{path}@last", modality, 8)
    with torch.no_grad():
        got, lengths, _ = net.body(column.values)
        for row, ids in zip(got, torch.split(column.values.flat, [3, 1])):
            whole = torch.tensor([[2, *ids.tolist(), 3]])
            want = model(input_ids=whole).last_hidden_state[0, -1]
            torch.testing.assert_close(row, want, rtol=1e-4, atol=1e-5)
    assert lengths.tolist() == [1, 1] and net.body.is_one_vector
    with pytest.raises(AmodalError, match="@last is for text"):
        backbone(f"transformers:{path}@last", IMAGE, 8)


def test_berts_own_dropout_draws_from_the_seeds_of_rows(bert):
    tower = backbone(f"transformers:{bert[0]}", bert[2], 8, frozen=False).train()
    # of embeddings, and of the outputs of attention and perceptron in two layers
    assert tower.let_dropout() >= 5
    column, seeds = texts(3, 1, 16), torch.tensor([7, 8, 9])
    plain = tower(column, "text", 3).x
    with hidden_dropout(0.3, seeds):
        whole = tower(column, "text:1", 3)
        # alone it has another padding
        alone = tower(
            Column(Ragged(column.values.flat[:3], torch.tensor([3])), torch.tensor([0])),
            "text:1",
            3,
        )
        other = tower(column, "text:2", 3).x
    torch.testing.assert_close(whole.x[:3], alone.x, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(whole.x, plain).all(1).any()
    assert not torch.isclose(whole.x, other).all(1).any()
    assert torch.equal(tower(column, "text", 3).x, plain)


def test_a_text_model_reads_the_fields_ids_between_its_special_tokens(bert):
    path, model, text = bert
    tower = backbone(f"transformers:{path}", text, 8).train()
    column = texts(3, 1, 16)
    bag = tower(column, "text", 3)
    assert bag.lengths().tolist() == [3, 1, 16] and bag.position[:4].tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [2, 0, 0],
        [0, 0, 0],
    ]
    for row, ids in enumerate(column.values.split()):
        with torch.no_grad():
            hidden = model(torch.tensor([[2, *ids.tolist(), 3]])).last_hidden_state[0, 1:-1]
            torch.testing.assert_close(
                bag.x[bag.row == row], tower.project(hidden), rtol=1e-4, atol=1e-5
            )
    assert tower.report.share == 1 and len(tower(texts(), "text", 2)) == 0
    learning = backbone(f"transformers:{path}", text, 8, frozen=False)
    assert not learning.body.model.pooler.dense.weight.requires_grad  # no token depends on it
    for some in (column, texts()):
        learning.zero_grad()
        learning(some, "text", 3).x.square().sum().backward()
        assert all(p.grad is not None for p in learning.parameters() if p.requires_grad)


def test_damaged_text_weights_are_reported(bert, tmp_path):
    import shutil

    shutil.copytree(bert[0], tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    state["embeddings.word_embeddings.weight"] = torch.zeros(3, 24)
    del state["encoder.layer.0.output.dense.weight"]
    save_file(
        state | {"more": torch.zeros(1)},
        tmp_path / "m" / "model.safetensors",
        metadata={"format": "pt"},
    )
    report = backbone(f"transformers:{tmp_path / 'm'}", bert[2], 8, min_share=0).report
    assert (
        report.missing == ("encoder.layer.0.output.dense.weight",) and "more" in report.unexpected
    )
    assert report.mismatched == (("embeddings.word_embeddings.weight", (11, 24), (3, 24)),)


def test_an_image_model_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    shape = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, **shape)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}', encoding="utf-8"
    )
    tower = backbone(f"transformers:{tmp_path}", IMAGE, 8)
    column = images()
    with torch.no_grad():
        want = model(pixel_values=(column.values - 0.4) / 0.2).last_hidden_state[:, 1:]
        torch.testing.assert_close(
            tower(column, "image", 3).x, tower.project(want.flatten(0, 1)), rtol=1e-4, atol=1e-5
        )


# In an encoder


def test_an_encoder_with_backbones_survives_without_their_files(vit, bert, tmp_path):
    fields = {"image": IMAGE, "text": bert[2]}
    specs = {"image": f"timm:{VIT}:32@{vit[0]}", "text": f"transformers:{bert[0]}"}
    encoder = Encoder(fields, size="nano", backbones=config.backbones(specs, fields, "nano"))
    batch = Batch.of(3, {"image": images(), "text": texts(3, 1, 2)})
    saved = encoder.spec
    # the weights are in the checkpoint, so neither the file nor the directory is needed any more
    for field, path in (("image", vit[0]), ("text", bert[0])):
        args = saved["args"]["backbones"][field]["args"]
        args["spec"] = args["spec"].replace(str(path), "/gone")
    other = config.build(saved)
    assert other.spec["args"]["backbones"] == saved["args"]["backbones"]
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    a, b = encoder(batch), other(batch)
    assert all(torch.equal(a[s].values, b[s].values) for s in ("image", "text"))
    assert not list(encoder.trunks)  # a backbone is trunk enough
    assert {n.split(".")[0] for n, p in encoder.named_parameters() if p.requires_grad} == {
        "tokenizers",
        "field_token",
    }


# The transformer itself, against timm's


def test_our_transformer_is_timms_blocks():
    from benchmarks.network import TimmBlocks, pad

    torch.manual_seed(0)
    lengths = [5, 0, 3, 9, 5, 1]
    text = bag_of(lengths, width=24)
    for tokens, mask_rule in (
        (text, None),
        (Tokens.join([text, bag_of([2, 2, 0, 1, 4, 0], "image")]), pure),
    ):
        ours, peer = (
            Transformer(24, 3, 2, mask_rule=mask_rule).double(),
            TimmBlocks(24, 3, 2).double(),
        )
        peer.take(ours)
        padded, mask = pad(tokens)
        see = mask[:, None, :].expand(-1, mask.shape[1], -1)
        if mask_rule is not None:
            source = torch.full(mask.shape, -1).masked_scatter(mask, tokens.source)
            see = see & (source[:, :, None] == source[:, None, :])
        see = see | torch.eye(
            mask.shape[1], dtype=torch.bool
        )  # padding reads itself, or its softmax is of nothing
        torch.testing.assert_close(
            ours(tokens).x, peer(padded, see[:, None])[mask], rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize(
    ("spec", "side"),
    [("resnet18:64", 64), ("resnet18:64/8@scratch", 64), ("resnet18/8", 224), ("resnet18", 224)],
)
def test_the_size_of_a_model_is_read_with_a_stride_behind_it(spec, side):
    from amodal.nn.backbones.timm import input_size

    assert input_size(spec) == side


# Layers


def test_a_layer_of_a_vit_in_place_of_the_last_one(vit):
    path, model = vit
    column, scaled = images((0, 1)), None
    depth = len(model.blocks)
    for number in (1, depth):
        tower = backbone(f"timm:{VIT}:32/layer{number}@{path}", IMAGE, 8)
        with torch.no_grad():
            scaled = tower.body.scaled(column.values)
            x = model.norm_pre(model.pos_drop(model._pos_embed(model.patch_embed(scaled))))
            for block in model.blocks[:number]:
                x = block(x)
            want = x[:, 1:]
            flat, lengths, _ = tower.body(column.values)
            torch.testing.assert_close(flat, want.flatten(0, 1), rtol=1e-4, atol=1e-5)
            states = tower.body.hidden_states(column.values)
        assert len(states) == depth
        torch.testing.assert_close(states[number - 1], want.mean(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(AmodalError, match=f"layers 1 to {depth}, not {depth + 1}"):
        backbone(f"timm:{VIT}:32/layer{depth + 1}@{path}", IMAGE, 8)


def test_a_layer_of_a_text_model_in_place_of_the_last_one(bert):
    path, model, field = bert
    texts = [field.decode(t) for t in (" ".join(WORDS[:3]), WORDS[0])]
    column = Column(field.collate(texts), torch.arange(2))
    tower = backbone(f"transformers:{path}@layer1", field, 8)
    with torch.no_grad():
        ids = torch.tensor([[2, *texts[0].tolist(), 3]])
        want = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0, 1:-1]
        flat, lengths, _ = tower.body(column.values)
        torch.testing.assert_close(flat[:3], want, rtol=1e-4, atol=1e-5)
        first, last = tower.body.hidden_states(column.values)
    torch.testing.assert_close(first[0], want.mean(0), rtol=1e-4, atol=1e-5)
    whole = backbone(f"transformers:{path}", field, 8).body(column.values)[0]
    torch.testing.assert_close(last[0], whole[:3].mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(AmodalError, match="layers 1 to 2, not 3"):
        backbone(f"transformers:{path}@layer3", field, 8)


@pytest.mark.parametrize("shown", [True, False])
def test_bars_of_the_package_are_off_while_a_model_is_read(bert, capfd, shown):
    from transformers.utils import logging as bars

    path, _, modality = bert
    (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
    try:
        backbone(f"transformers:{path}", modality, 8)
        assert bars.is_progress_bar_enabled() is shown
    finally:
        bars.enable_progress_bar()
    assert "Loading weights" not in capfd.readouterr().err

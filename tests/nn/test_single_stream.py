"""A pretrained single-stream transformer as the joint trunk: a tiny ViLT, against transformers."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Batch, Column
from amodal.core.embeddings import FUSED
from amodal.modalities import make
from amodal.nn import config
from amodal.nn.adapters.deep_prompts import pattern_prompts
from amodal.nn.backbones.single_stream import BLANK, PADDING, single_stream
from amodal.nn.encoder import Encoder
from tests.tiny_vilt import CLS, SEP, vilt_folder

TEXTS = ("a red apple", "green pear and a red pear", "apple")
IDS = ([4, 6, 8], [5, 7, 9, 4, 6, 7], [8])


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    return vilt_folder(tmp_path_factory.mktemp("vilt"))


def fields_of(folder, max_length=10):
    return {
        "picture": make("image", size=32, channels=3, patch=16),
        "words": make("text", vocabulary=str(folder), max_length=max_length),
    }


def encoder_of(folder, **options):
    fields = fields_of(folder, **options)
    backbones, more = single_stream(f"transformers:{folder}", fields, "nano")
    return Encoder(fields, size="nano", backbones=backbones, **more).eval()


def records(encoder, rows=((0, 1, 2), (0, 1, 2))):
    """Three records; `rows` have a picture and a text."""
    rng, fields = np.random.default_rng(0), encoder.fields
    images = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    columns = {}
    for (name, raws), present in zip((("picture", images), ("words", TEXTS)), rows):
        values = fields[name].collate([fields[name].decode(raws[r]) for r in present])
        columns[name] = Column(values, torch.tensor(present, dtype=torch.int64))
    return Batch.of(3, columns, ["a", "b", "c"])


def pixels(batch, row):
    column = batch["picture"]
    if row not in column.rows.tolist():
        return torch.ones(1, 3, 32, 32)  # white
    return (column.values[column.rows.tolist().index(row)][None] - 0.5) / 0.5


def text_ids(batch, row):
    own = IDS[row] if row in batch["words"].rows.tolist() else []
    return torch.tensor([[CLS, *own, SEP]])


@pytest.mark.parametrize("rows", [((0, 1, 2), (0, 1, 2)), ((0, 2), (1, 2)), ((1,), (1,))])
def test_fused_vectors_are_those_of_the_library(vilt, rows):
    """What is missing is an empty text or a white picture; a row without anything is none."""
    folder, model = vilt
    encoder = encoder_of(folder)
    batch = records(encoder, rows)
    with torch.no_grad():
        fused = encoder.features(batch)[FUSED]
        assert fused.rows.tolist() == sorted({*rows[0], *rows[1]})
        for vector, row in zip(fused.values, fused.rows.tolist()):
            expected = model(input_ids=text_ids(batch, row), pixel_values=pixels(batch, row))
            torch.testing.assert_close(vector, expected.pooler_output[0], rtol=1e-4, atol=1e-5)


def test_states_of_tokens_are_those_of_the_library(vilt):
    folder, model = vilt
    encoder = encoder_of(folder)
    batch = records(encoder)
    with torch.no_grad():
        context = encoder.encode(encoder.tokenize(batch))
        for row in range(3):
            words, picture = (context[s].x[context[s].row == row] for s in ("words", "picture"))
            ids = text_ids(batch, row)
            expected = model(input_ids=ids, pixel_values=pixels(batch, row)).last_hidden_state[0]
            n = ids.shape[1]
            torch.testing.assert_close(words, expected[:n], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(picture[0], expected[n], rtol=1e-4, atol=1e-5)
            # the library shuffles patches
            own, theirs = (t.sum(0) for t in (picture[1:], expected[n + 1 :]))
            torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)


def test_pictures_may_be_left_out_in_place_of_white_ones(vilt):
    folder, model = vilt
    encoder = encoder_of(folder)
    encoder.trunks["all"].set_blank(False)
    batch = records(encoder, ((0,), (0, 1)))
    with torch.no_grad():
        fused = encoder.features(batch)[FUSED].values
        x = model.embeddings.text_embeddings(text_ids(batch, 1))
        x = x + model.embeddings.token_type_embeddings.weight[0]
        states = model.layernorm(model.encoder(x).last_hidden_state)
        torch.testing.assert_close(fused[1], model.pooler(states)[0], rtol=1e-4, atol=1e-5)
    rebuilt = config.build(encoder.spec)
    assert rebuilt.trunks["all"].blank is False


def test_a_saved_encoder_needs_no_folder(vilt):
    folder, _ = vilt
    encoder = encoder_of(folder)
    spec = encoder.spec
    assert spec["args"]["trunk"]["part"] == "nn.backbones.single_stream:SingleStreamTrunk"
    same = config.build(spec).eval()
    same.load_state_dict(encoder.state_dict())
    batch = records(encoder, ((0, 2), (1, 2)))
    with torch.no_grad():
        torch.testing.assert_close(
            same.features(batch)[FUSED].values, encoder.features(batch)[FUSED].values
        )
    assert config.arguments(spec)["trunk"] == "joint"


def test_dropout_of_the_model_stays_off(vilt):
    encoder = encoder_of(vilt[0])
    batch = records(encoder)
    with torch.no_grad():
        before = encoder.features(batch)[FUSED].values
        torch.testing.assert_close(encoder.train().features(batch)[FUSED].values, before)


def embedded(model, batch, row):
    """What enters the first layer, in the order text, picture."""
    e = model.embeddings
    words = e.text_embeddings(text_ids(batch, row))[0] + e.token_type_embeddings.weight[0]
    patches = e.patch_embeddings(pixels(batch, row)).flatten(2).transpose(1, 2)[0]
    picture = torch.cat([e.cls_token[0], patches]) + e.position_embeddings[0]
    return torch.cat([words, picture + e.token_type_embeddings.weight[1]])


def prefixed(layer, x_LD, key, value):
    """A layer with more keys and values, written from its weights."""
    attention, y = layer.attention.attention, layer.layernorm_before(x_LD)
    q, k, v = attention.query(y), attention.key(y), attention.value(y)
    k, v = torch.cat([key, k]), torch.cat([value, v])
    heads = []
    for part in (slice(i * 16, i * 16 + 16) for i in range(4)):
        heads.append((q[:, part] @ k[:, part].T / 4.0).softmax(1) @ v[:, part])
    x_LD = x_LD + layer.attention.output.dense(torch.cat(heads, 1))
    inner = torch.nn.functional.gelu(layer.intermediate.dense(layer.layernorm_after(x_LD)))
    return x_LD + layer.output.dense(inner)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("level", ["input", "attention"])
def test_prompts_in_its_layers(vilt, level, accumulate):
    """Row by row: those of what the row has, in the first two of three layers."""
    folder, model = vilt
    encoder = encoder_of(folder)
    torch.manual_seed(1)
    prompts = pattern_prompts(encoder, length=4, layers=2, level=level, accumulate=accumulate)
    with torch.no_grad():
        prompts.tokens.normal_()
    encoder.set_block_hook(prompts)
    batch = records(encoder, ((0, 1), (1, 2)))  # a picture alone, both, a text alone
    fused = encoder.features(batch)[FUSED].values
    for row, pattern in enumerate((0, 2, 1)):
        x = embedded(model, batch, row)
        n = len(x)
        for i, layer in enumerate(model.encoder.layer):
            own = prompts.tokens[pattern, i] if i < 2 else None
            if own is not None and level == "attention":
                x = prefixed(layer, x, own[:2], own[2:])
                continue
            if own is not None:
                x = torch.cat([own, x if accumulate else x[-n:]])
            x = layer(x[None])[0][0]
        state = model.layernorm(x[-n])
        expected = torch.tanh(model.pooler.dense(state))
        torch.testing.assert_close(fused[row], expected, rtol=1e-4, atol=1e-5)
    fused.sum().backward()
    assert (prompts.tokens.grad.abs().sum((1, 2, 3)) > 0).all()


def test_blanks_and_padding_are_not_what_a_row_has(vilt):
    encoder = encoder_of(vilt[0])
    seen = []

    def hook(i, tokens, block):
        seen.append(tokens)
        return block(tokens)

    batch = records(encoder, ((0,), (0, 1)))
    encoder.encode(encoder.tokenize(batch), block_hook=hook)
    names = [[t.names[s] for s in t.source[t.row == r].tolist()] for t in seen[:1] for r in (0, 1)]
    assert names[0] == ["words"] * 5 + ["picture"] * 5 + [PADDING] * 3
    assert names[1] == ["words"] * 8 + [BLANK] * 5
    assert pattern_prompts(encoder).pattern(seen[0]).tolist() == [2, 1]


def test_positions_of_longer_texts_are_stretched(vilt):
    folder, model = vilt
    encoder = encoder_of(folder, max_length=30)
    table = encoder.tokenizers["words"].body.model.position_embeddings.weight
    before = model.embeddings.text_embeddings.position_embeddings.weight
    assert table.shape == (32, 64) and before.shape == (16, 64)
    for i in (0, 1, 7, 30, 31):  # half a step to each side of its centre
        place = min(max((i + 0.5) / 2 - 0.5, 0), 15)
        low = int(place)
        high = min(low + 1, 15)
        expected = before[low] + (place - low) * (before[high] - before[low])
        torch.testing.assert_close(table[i], expected)


def test_what_does_not_fit_is_said(vilt, tmp_path):
    folder, fields = vilt[0], fields_of(vilt[0])
    with pytest.raises(AmodalError, match="take the --size that is as wide"):
        single_stream(f"transformers:{folder}", fields, "tiny")
    with pytest.raises(AmodalError, match="choose two: --fields A,B"):
        single_stream(f"transformers:{folder}", {"words": fields["words"]}, "nano")
    with pytest.raises(AmodalError, match="a pretrained trunk is transformers:DIR"):
        single_stream("timm:vit_tiny_patch16_224", fields, "nano")
    from transformers import BertConfig, BertModel

    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**shape, vocab_size=10, intermediate_size=16)).save_pretrained(tmp_path)
    with pytest.raises(AmodalError, match="holds bert; give it as a backbone"):
        single_stream(f"transformers:{tmp_path}", fields, "nano")
    encoder = encoder_of(folder)
    with pytest.raises(AmodalError, match="of trunks of this library"):
        encoder.fuse(4)
    with pytest.raises(AmodalError, match="last states alone"):
        encoder.encode(encoder.tokenize(records(encoder)), router_logits={})

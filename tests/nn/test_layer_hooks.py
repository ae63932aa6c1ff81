"""Tokens between the layers of pretrained models, against one value at a time without padding."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import AmodalError
from amodal.nn.backbones.layer_hooks import hook_layers, layers_of
from amodal.nn.inserted_tokens import PROMPT, insert, without_prompts

transformers = pytest.importorskip("transformers")
SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
LENGTHS = (3, 6, 4)
P = 2


def text_model(kind, attention):
    torch.manual_seed(0)
    config = {
        "clip": transformers.CLIPTextConfig,
        "bert": transformers.BertConfig,
        "roberta": transformers.RobertaConfig,
    }[kind](
        vocab_size=20,
        hidden_size=16,
        max_position_embeddings=16,
        pad_token_id=0,
        eos_token_id=19,
        attn_implementation=attention,
        **SHAPE,
    )
    made = {
        "clip": transformers.CLIPTextModel,
        "bert": transformers.BertModel,
        "roberta": transformers.RobertaModel,
    }[kind]
    return made(config).eval()


def image_model(kind):
    torch.manual_seed(0)
    if kind == "timm":
        import timm

        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=3, num_heads=2, num_classes=0
        ).eval()
    shape = SHAPE | {"hidden_size": 16, "image_size": 32, "patch_size": 16}
    if kind == "clip":
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**shape)).eval()
    return transformers.ViTModel(transformers.ViTConfig(**shape)).eval()


def texts():
    torch.manual_seed(1)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, n in enumerate(LENGTHS):
        ids[row, :n] = torch.randint(2, 18, (n,))
        ids[row, n - 1] = 19
    return ids, (ids > 0).long()


class Deep:
    """New tokens for every layer from `first` on, mixed with what the former have become."""

    def __init__(self, width=16, first=1, depth=3, after=1, beta=0.5):
        torch.manual_seed(2)
        self.new = nn.Parameter(torch.randn(depth, P, width))
        self.first, self.depth, self.after, self.beta = first, depth, after, beta
        self.left = None

    def __call__(self, layer, tokens, block):
        if layer < self.first:
            return block(tokens)
        if layer == self.first:
            new = self.new[layer].expand(tokens.size, -1, -1)
            tokens = insert(tokens, tokens.rows(), new, after=self.after)
        else:
            is_new = tokens.source == tokens.names.index(PROMPT)
            mixed = self.beta * self.new[layer].repeat(tokens.size, 1)
            x = mixed + (1 - self.beta) * tokens.x[is_new]
            tokens = tokens.with_x(tokens.x.masked_scatter(is_new[:, None], x))
        tokens = block(tokens)
        if layer < self.depth - 1:
            return tokens
        self.left = tokens.x[tokens.source == tokens.names.index(PROMPT)].view(tokens.size, P, -1)
        return without_prompts(tokens)

    def naively(self, layers, x_LD, causal):
        """What one value becomes, and its tokens."""
        after, n = self.after, len(x_LD)
        for i, layer in enumerate(layers):
            if i >= self.first:
                own = x_LD if i == self.first else torch.cat([x_LD[:after], x_LD[after + P :]])
                new = self.new[i]
                if i > self.first:
                    new = self.beta * new + (1 - self.beta) * x_LD[after : after + P]
                x_LD = torch.cat([own[:after], new, own[after:]])
            x_LD = alone(layer, x_LD, causal)
        assert len(x_LD) == n + P
        return torch.cat([x_LD[:after], x_LD[after + P :]]), x_LD[after : after + P]


def alone(layer, x_LD, causal):
    """A layer on one value, with a mask of its own."""
    mask = None
    if causal:
        mask = torch.full((len(x_LD), len(x_LD)), -torch.inf).triu(1)[None, None]
    out = layer(x_LD[None], mask)
    return (out[0] if isinstance(out, tuple) else out)[0]


def final(model, x_LD):
    norm = next(
        (
            getattr(model, name)
            for name in ("final_layer_norm", "layernorm", "norm", "post_layernorm")
            if hasattr(model, name)
        ),
        nn.Identity(),
    )
    return norm(x_LD)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["clip", "bert", "roberta"])
@pytest.mark.parametrize("after, first, beta", [(1, 1, 0.5), (0, 0, 1.0), (1, 2, 0.0)])
def test_texts_are_read_as_one_by_one(kind, attention, after, first, beta):
    model, (ids, mask) = text_model(kind, attention), texts()
    hook = Deep(after=after, first=first, beta=beta)
    layers = layers_of(model)
    with hook_layers(layers, hook, ("words",)):
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert states.shape[:2] == ids.shape
    for row, n in enumerate(LENGTHS):
        x_LD = model.embeddings(input_ids=ids[row : row + 1, :n])[0]
        own, left = hook.naively(layers, x_LD, causal=kind == "clip")
        torch.testing.assert_close(states[row, :n], final(model, own), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(hook.left[row], left, rtol=1e-4, atol=1e-5)
    states.sum().backward()
    assert hook.new.grad[first].abs().sum() > 0


@pytest.mark.parametrize("kind", ["timm", "clip", "vit"])
def test_pictures_are_read_as_one_by_one(kind):
    model, images = image_model(kind), torch.randn(2, 3, 32, 32)
    hook, layers = Deep(), layers_of(model)
    entered = []
    handle = layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))

    def read():
        if kind == "timm":
            return model.forward_features(images)
        return model(pixel_values=images).last_hidden_state

    plain = read()
    with hook_layers(layers, hook, ("picture",)):
        states = read()
    handle.remove()
    for row, x_LD in enumerate(entered[0]):
        own, left = hook.naively(layers, x_LD, causal=False)
        # CLIP's states are not normed
        expected = own if kind == "clip" else final(model, own)
        torch.testing.assert_close(states[row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(hook.left[row], left, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read(), plain, rtol=0, atol=0)  # afterwards nothing is left of it


def prefixed(layer, x_LD, key, value, causal=False):
    """Attention of one value with more keys and values, from the weights of a layer."""
    named = dict(layer.named_modules())
    if "attn.qkv" in named:
        norm, out = layer.norm1, layer.attn.proj
        q, k, v = layer.attn.qkv(norm(x_LD)).chunk(3, 1)
    else:
        norm = getattr(layer, "layer_norm1", None) or layer.layernorm_before
        linear = {n.rpartition(".")[2]: m for n, m in named.items()}
        y = norm(x_LD)
        q, k, v = (
            linear.get(a, linear.get(b))(y)
            for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
        )
        out = linear.get("out_proj") or linear.get("o_proj") or layer.attention.output.dense
    k, v = torch.cat([key, k]), torch.cat([value, v])
    heads = [t.view(len(t), 2, 8).transpose(0, 1) for t in (q, k, v)]
    allowed = torch.ones(len(q), len(k), dtype=torch.bool)
    if causal:
        allowed = allowed.tril(len(key))
    read = scaled_dot_product_attention(*heads, attn_mask=allowed).transpose(0, 1).flatten(1)
    x_LD = x_LD + out(read)
    if "mlp" in named:
        norm2 = getattr(layer, "norm2", None) or getattr(layer, "layer_norm2", None)
        norm2 = norm2 or layer.layernorm_after
        return x_LD + layer.mlp(norm2(x_LD))
    raise AssertionError(list(named))


@pytest.mark.parametrize("kind", ["timm", "clip", "vit", "text"])
def test_more_keys_and_values(kind):
    torch.manual_seed(3)
    key, value = torch.randn(2, 3, P, 16), torch.randn(2, 3, P, 16)
    seen = []

    def hook(i, tokens, block):
        seen.append(tokens)
        if i == 2:
            return block(tokens)
        return block(tokens, prefix=(key[i][: tokens.size], value[i][: tokens.size]))

    if kind == "text":
        model, (ids, mask) = text_model("clip", "sdpa"), texts()
        read, lengths = lambda: model(input_ids=ids, attention_mask=mask), LENGTHS
    else:
        model, images = image_model(kind), torch.randn(2, 3, 32, 32)
        if kind == "timm":
            read = lambda: model.forward_features(images)  # noqa: E731
        else:
            read = lambda: model(pixel_values=images)  # noqa: E731
        lengths = (5, 5)
    layers = layers_of(model)
    with hook_layers(layers, hook, ("field",)):
        read()
    entered = [t.x.view(t.size, -1, 16) for t in seen]
    assert len(entered) == 3
    for i in (0, 1):
        for row, n in enumerate(lengths):
            expected = prefixed(
                layers[i], entered[i][row, :n], key[i][row], value[i][row], kind == "text"
            )
            torch.testing.assert_close(entered[i + 1][row, :n], expected, rtol=1e-4, atol=1e-5)


def test_another_thread_reads_the_model_as_it_is():
    model, images = image_model("vit"), torch.randn(2, 3, 32, 32)
    plain, got = model(pixel_values=images).last_hidden_state, []

    def read():
        with torch.no_grad():
            got.append(model(pixel_values=images).last_hidden_state)

    with hook_layers(layers_of(model), Deep(), ("picture",)):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        hooked = model(pixel_values=images).last_hidden_state
    torch.testing.assert_close(got[0], plain)
    assert not torch.allclose(hooked, plain)


def test_an_error_leaves_the_layers_as_they_were():
    model, images = image_model("vit"), torch.randn(2, 3, 32, 32)
    plain = model(pixel_values=images).last_hidden_state

    def hook(i, tokens, block):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), hook_layers(layers_of(model), hook, ("picture",)):
        model(pixel_values=images)
    torch.testing.assert_close(model(pixel_values=images).last_hidden_state, plain)
    assert not any("forward" in vars(layer) for layer in layers_of(model))


def test_models_without_such_layers_are_refused():
    with pytest.raises(AmodalError, match="no list of such layers"):
        layers_of(nn.Linear(2, 2))
    import timm

    model = timm.create_model("convnext_atto", num_classes=0).eval()
    with pytest.raises(AmodalError, match="no list of such layers"):
        layers_of(model)

    class Rotary(nn.Module):
        def forward(self, x, position_embeddings=None):
            return x

    def call(layer, x, **more):
        with hook_layers([layer], Deep(first=0, depth=1, width=x.shape[-1]), ("a",)):
            layer(x, **more)

    with pytest.raises(AmodalError, match="rotary"):
        call(Rotary(), torch.zeros(1, 3, 4), position_embeddings=(torch.zeros(3, 4),) * 2)
    with pytest.raises(AmodalError, match="lists of tokens"):
        call(nn.Identity(), torch.zeros(1, 3, 3, 4))

    def keys(i, tokens, block):
        return block(tokens, prefix=(torch.zeros(1, 1, 4),) * 2)

    with pytest.raises(AmodalError, match="linear maps to both"):
        with hook_layers([layer := nn.Sequential(nn.Linear(4, 4))], keys, ("a",)):
            layer(torch.zeros(1, 3, 4))

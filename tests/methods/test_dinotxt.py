"""dino.txt: what the tail behind a locked tower computes, what stays and what learns, and maps of
patches against loops."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, layer_norm

from amodal import methods
from amodal.core import AmodalError
from amodal.export.dense_encoder import why_not_exportable
from amodal.methods.adaptation.dinotxt import patch_maps
from amodal.methods.shared.regions import alone
from amodal.nn.blocks import blocks_of
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import (
    LayerScaleBlock,
    ProjectionTower,
    align_to_towers,
    with_projection_tower,
)
from tests.methods.bench import batch, fields, method
from tests.methods.test_lit import stepped


def by_hand(block: LayerScaleBlock, x_LD):
    """One row through a block, head by head and token by token."""
    width, heads = x_LD.shape[1], block.attention.heads
    normed = layer_norm(x_LD, (width,), block.norm1.weight, block.norm1.bias)
    q, k, v = block.attention.qkv(normed).chunk(3, 1)
    each, mixed = width // heads, torch.zeros_like(x_LD)
    for h in range(heads):
        own = slice(h * each, (h + 1) * each)
        for i in range(len(x_LD)):
            weight = torch.stack(
                [q[i, own] @ k[j, own] / each**0.5 for j in range(len(x_LD))]
            ).softmax(0)
            mixed[i, own] = sum(w * v[j, own] for j, w in enumerate(weight))
    x_LD = x_LD + block.scale1 * block.attention.out(mixed)
    for_two = block.up(layer_norm(x_LD, (width,), block.norm2.weight, block.norm2.bias))
    gate, value = for_two[:, : for_two.shape[1] // 2], for_two[:, for_two.shape[1] // 2 :]
    return x_LD + block.scale2 * block.down(gate * torch.sigmoid(gate) * value)


@torch.no_grad()
def test_the_vector_is_the_class_token_and_the_mean_patch_behind_the_blocks():
    encoder = method("dinotxt", seed=1).encoder.eval()
    tail, plain = encoder.pools["picture"], batch(("plain",))
    for block in tail.blocks:  # scales as large as after a long training
        block.scale1.fill_(0.7), block.scale2.fill_(0.4)
    bag = alone(encoder, plain.only("picture"))["picture"]
    z = encoder(plain)["picture"]
    assert z.values.shape[1] == 2 * encoder.width == encoder(plain)["words"].values.shape[1]
    for row, vector in zip(z.rows, z.values):
        x_LD = bag.x[bag.row == row]
        for block in tail.blocks:
            x_LD = by_hand(block, x_LD)
        x_LD = tail.norm(x_LD)
        torch.testing.assert_close(
            vector, torch.cat([x_LD[0], x_LD[1:].mean(0)]), atol=1e-4, rtol=1e-4
        )
    for reads, own in (("cls", z.values[:, :64]), ("mean", z.values[:, 64:])):
        tail.output = reads
        torch.testing.assert_close(tail(bag).values, own)


def test_new_blocks_change_little():
    tail, bag = (
        ProjectionTower(64, 2),
        alone(method("dinotxt").encoder, batch(("plain",)).only("picture"))["picture"],
    )
    torch.testing.assert_close(
        tail.run_blocks(bag).x, layer_norm(bag.x, (64,)), atol=1e-3, rtol=1e-3
    )


def test_the_tower_stays_and_what_is_behind_it_learns():
    changed = stepped(method("dinotxt"))
    assert not any(
        n.startswith(("tokenizers.picture", "trunks.picture", "field_token.picture"))
        for n in changed
    )
    assert "pools.picture.token" not in changed and any(
        n.startswith("pools.picture.blocks.1") for n in changed
    )
    assert {"heads.words.weight", "heads.signal.weight"} <= changed and not any(
        "heads.picture" in n for n in changed
    )
    assert any(n.startswith("trunks.words") for n in changed)


def test_what_a_tower_learnt_before_is_found_under_the_same_names():
    before = Encoder(fields(), size="nano", pool="cls").state_dict()
    after = method("dinotxt").encoder.state_dict()
    own = [n for n in before if ".picture." in n or n == "field_token.picture"]
    assert all(after[n].shape == before[n].shape for n in own) and "pools.picture.token" in own


@torch.no_grad()
def test_maps_are_cosines_of_patches_with_the_half_of_a_text_that_is_about_them():
    for reads, part in (("both", slice(64, None)), ("cls", slice(None))):
        encoder = method("dinotxt", pooling=reads).encoder.eval()
        parts = batch(("plain",)).only("picture").split(3)
        classes = torch.randn(5, encoder.heads_width, generator=torch.Generator().manual_seed(0))
        maps, tail = patch_maps(encoder, parts, "picture", classes), encoder.pools["picture"]
        one, bag = 0, None
        for small in parts:
            bag = tail.patches(alone(encoder, small)["picture"])
            for row in small["picture"].rows:
                for place, x in enumerate(bag.x[bag.row == row]):
                    like = [cosine_similarity(x, c[part], dim=0) for c in classes]
                    torch.testing.assert_close(
                        maps[one, :, place // 2, place % 2], torch.stack(like)
                    )
                one += 1
        assert len(maps) == one and patch_maps(encoder, parts, "picture", classes, size=16).shape[
            2:
        ] == (16, 16)
    with pytest.raises(AmodalError, match="not 'words'"):
        patch_maps(encoder, parts, "words", classes)


def test_enlarged_maps_are_bilinear_between_the_middles_of_patches():
    m = method("dinotxt", sources=("picture", "words"))
    rows = batch(("plain",), sources=("picture", "words"))
    classes = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    small = patch_maps(m.encoder, [rows], "picture", classes)
    large = patch_maps(m.encoder, [rows], "picture", classes, size=4)
    assert not small.requires_grad and small.shape[2:] == (2, 2)
    # pixel i of 4 lies at i / 2 - 1 / 4 between patches 0 and 1, and outside is the nearest
    share = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    torch.testing.assert_close(large, share @ small @ share.T)


def test_records_without_a_picture_have_no_map():
    m = method("dinotxt", sources=("picture", "words"))
    some = batch(("plain",), sources=("picture", "words"))
    none = batch(("plain",), sources=("picture", "words"), absent=("picture",))
    classes = torch.randn(3, 128)
    maps = patch_maps(m.encoder, [some], "picture", classes)
    assert torch.equal(maps, patch_maps(m.encoder, [none, some], "picture", classes))
    with pytest.raises(AmodalError, match="no record has 'picture'"):
        patch_maps(m.encoder, [none], "picture", classes)


def test_blocks_of_the_tower_are_blocks_of_the_network():
    m = method("dinotxt", sources=("picture", "words"))
    own = m.encoder.pools["picture"].blocks
    assert len(own) == 2 and all(any(b is block for b in blocks_of(m.encoder)) for block in own)


def test_a_backbone_that_never_met_the_class_token_gets_a_new_one():
    whole = {"picture": "convnet:width=8"}
    encoder = method("dinotxt", sources=("picture", "words"), backbones=whole).encoder
    assert encoder.pools["picture"].token.requires_grad
    with pytest.raises(AmodalError, match="give its projection tower a block"):
        method("dinotxt", sources=("picture", "words"), backbones=whole, blocks=0)


def test_towers_without_a_class_token_and_other_mistakes():
    plain = Encoder(fields(), size="nano")
    learning = with_projection_tower(plain, "picture").pools["picture"].token
    assert learning.requires_grad
    with pytest.raises(AmodalError, match="give its projection tower a block"):
        with_projection_tower(Encoder(fields(), size="nano"), "picture", blocks=0)
    assert (
        methods.build(
            "dinotxt", Encoder(fields(), size="nano"), blocks=0, pooling="mean"
        ).encoder.heads_width
        == 64
    )
    with pytest.raises(AmodalError, match="both"):
        method("dinotxt", pooling="bot")
    with pytest.raises(AmodalError, match="joint"):
        with_projection_tower(Encoder(fields(), size="nano", trunk="joint"), "picture")
    with pytest.raises(AmodalError, match="one projection tower"):
        align_to_towers(Encoder(fields(), size="nano"))
    assert "no dense form" in why_not_exportable(method("dinotxt").encoder, "picture")
    encoder = method("dinotxt", lock="picture, signal").encoder
    assert {f for f in encoder.fields if isinstance(encoder.heads[f], torch.nn.Identity)} == {
        "picture",
        "signal",
    }


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["both", "cls", "mean"])
def test_patches_and_queries_give_the_maps(pooling):
    m = method("dinotxt", sources=("picture", "words"), pooling=pooling)
    rows = batch(("plain",), sources=("picture", "words"))
    classes = torch.randn(3, m.encoder.heads_width, generator=torch.Generator().manual_seed(0))
    patches = m.patch_vectors(rows, "picture")
    queries = torch.nn.functional.normalize(m.patch_queries(classes, "picture"), dim=1)
    maps = patch_maps(m.encoder, [rows], "picture", classes)
    torch.testing.assert_close(
        (patches.x @ queries.T).view(len(maps), 4, 3).mT.reshape(maps.shape), maps
    )
    assert (m.patch_queries(classes, "picture") == classes[:, 64 * (pooling == "both") :]).all()

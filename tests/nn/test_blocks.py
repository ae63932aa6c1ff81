"""Blocks: every kind is found, compiled without a break, and sharded without changing a gradient."""

import shutil

import pytest
import torch
import torch.distributed as dist
from toys import bag_of

from amodal.modalities import make
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.attention.masks import RULES, rule
from amodal.nn.attention.varlen import layout_of
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.blocks import blocks_of
from amodal.nn.generation.multi_source_decoder import MultiSourceDecoder
from amodal.nn.gradient_checkpointing import recomputation
from amodal.nn.heads.projection_tower import LayerScaleBlock
from amodal.nn.positions import Rotary
from amodal.nn.transformer import Block, Transformer
from amodal.train import distributed
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method


def test_blocks_of_every_kind_are_found_once():
    trunk = Transformer(24, 4, 2, experts=2)
    assert blocks_of(trunk) == list(trunk.blocks)
    decoder = MultiSourceDecoder(8, width=8, depth=3, heads=2, sources=1)
    assert blocks_of(
        torch.nn.ModuleList([trunk, decoder, CrossEncoder(8, 2, 2), LayerScaleBlock(8, 2)])
    )[4:7] == list(decoder.blocks)
    both = torch.nn.ModuleList([CrossEncoder(8, 2, 2), LayerScaleBlock(8, 2)])
    assert len(blocks_of(both)) == 3


def test_layers_of_a_pretrained_backbone_are_found(tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    tower = backbone(
        f"timm:vit_tiny_patch16_224:32@{tmp_path / 'w.safetensors'}", make("image", size=32), 8
    )
    assert [type(b).__name__ for b in blocks_of(tower)] == ["Block"] * 12


@pytest.mark.parametrize("name", ["clip", "limoe", "dinotxt", "cuni_mmt", "mae"])
def test_sharded_blocks_learn_what_whole_ones_learn(name, tmp_path):
    """In a process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        whole, sharded = exact(method(name)), exact(method(name))
        distributed.shard(sharded)
        rows = exact(batch(whole.views))
        terms = [gradients(m, rows) for m in (whole, sharded)]
        assert terms[0].keys() == terms[1].keys()
        theirs, split = dict(sharded.named_parameters()), 0
        for key, p in whole.named_parameters():
            split += hasattr(theirs[key], "device_mesh")
            if p.grad is not None:
                torch.testing.assert_close(distributed.full_tensor(theirs[key].grad), p.grad)
        assert split == sum(len(list(b.parameters())) for b in blocks_of(whole))
    finally:
        dist.destroy_process_group()


LAYOUTS = {
    "one length": (bag_of([3, 3, 3]), None, False),
    "many lengths": (bag_of([3, 1, 5]), None, False),
    "causal": (bag_of([3, 1, 5]), None, True),
    **{f"rule {name}": (bag_of([3, 2, 3]), rule(name), False) for name in RULES},
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_block_is_one_graph(name, rotary):
    tokens, mask_rule, causal = LAYOUTS[name]
    block = Block(24, 2).double()
    layout = layout_of(tokens, mask_rule, causal)
    rotate = Rotary(layout.enter(tokens.position), 12) if rotary else None
    args = layout.enter(tokens.x), layout, rotate
    found = torch._dynamo.explain(block)(*args)
    assert found.graph_count == 1 and found.graph_break_count == 0, found.break_reasons
    torch._dynamo.reset()
    quick = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(quick(*args)[0], block(*args)[0])


def test_a_compiled_block_can_be_recomputed():
    tokens, found = bag_of([3, 3, 3]), []
    block, layout = Block(24, 2).double(), layout_of(tokens)
    quick = torch.compile(block, fullgraph=True, backend="aot_eager")
    for call, on in ((block, False), (quick, True)):
        x = tokens.x.clone().requires_grad_()
        with recomputation(on):
            out = call(x, layout)[0]
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)
def test_a_compiled_block_gives_the_values_and_gradients_of_a_plain_one():
    tokens = bag_of([3, 3, 3], dtype=torch.float32)
    block, layout = Block(24, 2), layout_of(tokens)
    quick, found = torch.compile(block, fullgraph=True), []
    for call in (block, quick):
        x = tokens.x.clone().requires_grad_()
        out = call(x, layout)[0]
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

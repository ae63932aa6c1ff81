"""A block of LESS ViT at 13, 64 and 200 bands against a block of full attention over the same
tokens, one for each band and place of 6 x 6: forward and backward pass of one record, width 128, 4
heads. The peers are the library's own transformer block: with torch's attention, which computes all
pairs of tokens and never stores them, and, at 13 and 64 bands, with the weights of all pairs
stored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amodal.core import Tokens
from amodal.core.tokens import METRES, WAVELENGTH
from amodal.nn.channel_grid import grid_of
from amodal.nn.fusion.less_trunk import LessBlock
from amodal.nn.transformer import Block, Transformer
from benchmarks._timing import Row, compare, on_one_thread
from benchmarks.network import DEVICE

BANDS = (13, 64, 200)
SIDE, WIDTH, HEADS, CHANNEL_WIDTH = 6, 128, 4, 4


@on_one_thread()
def run() -> list[Row]:
    torch.manual_seed(0)
    ours = LessBlock(WIDTH, HEADS, channel_width=CHANNEL_WIDTH).to(DEVICE)
    peer = Block(WIDTH, HEADS).to(DEVICE)
    rows = []
    for bands in BANDS:
        what, step = f"block, {bands} bands x {SIDE * SIDE} places", less_step(ours, bands)
        repeat = 5 if bands < 200 else 3
        rows.append(compare(what, step, "full attention", full_step(peer, bands), repeat=repeat))
        if bands < 200:  # 7,200 x 7,200 weights of four heads are some gigabytes with gradients
            stored = stored_step(peer, bands)
            rows.append(compare(what, step, "full attention, stored", stored, repeat=repeat))
    return rows


def record(bands: int) -> Tokens:
    """Tokens of all bands and places of one record."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE), torch.arange(bands))
    position = torch.cat([torch.zeros(len(place), 1), place[:, :2]], 1).float().to(DEVICE)
    nothing = torch.zeros(len(place), dtype=torch.int64, device=DEVICE)
    known = {
        METRES: torch.full((len(place),), 80.0, device=DEVICE),
        WAVELENGTH: (400 + 10 * place[:, 2]).float().to(DEVICE),
    }
    x_TD = torch.randn(len(place), WIDTH, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return Tokens(x_TD, nothing, nothing, position, ("raster",), 1, known)


def less_step(block: LessBlock, bands: int) -> Callable[[], None]:
    tokens, nothing = record(bands), torch.zeros(WIDTH, device=DEVICE)

    def step() -> None:
        grid = grid_of(tokens)  # the layout is a part of the cost
        _backward(block, block(grid.start(tokens.x, nothing, nothing, nothing), grid))

    return step


def full_step(block: Block, bands: int) -> Callable[[], None]:
    tokens, trunk = record(bands), Transformer(WIDTH, 0, HEADS)

    def step() -> None:
        _backward(block, block(tokens.x, trunk.lay_out(tokens))[0])

    return step


def stored_step(block: Block, bands: int) -> Callable[[], None]:
    """As `full_step`, by a softmax over a matrix."""
    x_TD = record(bands).x

    def step() -> None:
        read = block.attention
        q, k, v = read.qkv(block.norm1(x_TD)).unflatten(1, (3, HEADS, -1)).permute(1, 2, 0, 3)
        weight_HTT = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).softmax(2)
        y_TD = x_TD + read.out((weight_HTT @ v).transpose(0, 1).flatten(1))
        _backward(block, y_TD + block.down(block.act(block.up(block.norm2(y_TD)))))

    return step


def _backward(block: nn.Module, out: Tensor) -> None:
    block.zero_grad()
    out.square().mean().backward()

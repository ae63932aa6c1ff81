"""Forward and backward of our transformer on flat tokens against timm's blocks on padded batches,
float32.

Both have the same weights and must give the same output. What is missing costs timm the same as
what is there: it is padding under a key mask. On a CPU everything runs on one thread, so that other
programs on the machine disturb little.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import Tokens
from amodal.core.embeddings import FUSED
from amodal.nn.attention.masks import pure
from amodal.nn.transformer import Transformer
from benchmarks._limits import of_peak
from benchmarks._timing import Row, compare, on_one_thread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 128
SHAPES = {"128x4": (128, 4, 4), "384x4": (384, 4, 6)}  # width, depth, heads
FIELDS = {"image": 64, "series": 32, "table": 16}  # tokens of each


@on_one_thread()
def run() -> list[Row]:
    return [row for name, shape in SHAPES.items() for row in _rows(name, *shape)]


def _rows(name: str, width: int, depth: int, heads: int) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    ours, peer = (
        Transformer(width, depth, heads).to(DEVICE),
        TimmBlocks(width, depth, heads).to(DEVICE),
    )
    peer.take(ours)

    def against_timm(what: str, tokens: Tokens) -> Row:
        padded, mask = pad(tokens)
        mask = None if bool(mask.all()) else mask
        torch.testing.assert_close(ours(tokens).x, peer.read(padded, mask), rtol=1e-3, atol=1e-3)
        step = _step(peer, lambda: peer.read(padded, mask))
        mine = _step(ours, lambda: ours(tokens).x)
        return of_peak(compare(f"{name} {what}", mine, "timm", step, repeat=5), mine)

    def against_full(what: str, tokens: Tokens) -> Row:
        step = _step(ours, lambda: ours(full).x)
        return compare(
            f"{name} {what}", _step(ours, lambda: ours(tokens).x), "ours, full", step, repeat=5
        )

    full = bag(torch.full((ROWS,), 64), width)
    rows = [against_timm("full: 64 tokens x 128", full)]
    for part, missing in (("1/3", 1 / 3), ("2/3", 2 / 3)):
        left = full.keep((torch.rand(len(full), generator=generator) >= missing).to(DEVICE))
        rows += [
            against_timm(f"{part} of tokens missing", left),
            against_full(f"{part} of tokens missing", left),
        ]
    for part, missing in (("1/3", 1 / 3), ("2/3", 2 / 3)):
        there = {
            s: (torch.rand(ROWS, generator=generator) >= missing) * n for s, n in FIELDS.items()
        }
        rows.append(
            against_timm(
                f"3 fields, {part} missing",
                Tokens.join([bag(n, width, s) for s, n in there.items()]),
            )
        )
    if width > 128 and DEVICE == "cpu":  # gigabytes and minutes
        return rows
    lengths = (256 * torch.rand(ROWS, generator=generator) ** 1.56).long().clamp(1, 255)
    lengths[0] = 256
    text = bag(lengths, width)
    padding = 1 - len(text) / (ROWS * 256)
    rows.append(against_timm(f"text, {padding:.0%} padding", text))
    rows.append(_zorro(name, width, depth, heads, text, full))
    return rows


def _zorro(name: str, width: int, depth: int, heads: int, text: Tokens, image: Tokens) -> Row:
    """Zorro's rule: image and text read themselves, fusion tokens read both (a (B, T, T) mask for
    timm)."""
    image = Tokens(image.x, image.row, image.source, image.position, ("image",), ROWS)
    tokens = Tokens.join([image, text, bag(torch.full((ROWS,), 8), width, FUSED)])
    ours, peer = (
        Transformer(width, depth, heads, mask_rule=pure).to(DEVICE),
        TimmBlocks(width, depth, heads).to(DEVICE),
    )
    peer.take(ours)
    padded, mask = pad(tokens)
    source = torch.full(mask.shape, -1, device=DEVICE).masked_scatter(mask, tokens.source)
    table = pure(tokens.names).to(DEVICE)
    # a token of padding reads itself, or its softmax would be of nothing
    reads = table[source[:, :, None], source[:, None, :]] & mask[:, None, :] | torch.eye(
        mask.shape[1], dtype=torch.bool, device=DEVICE
    )
    torch.testing.assert_close(
        ours(tokens).x, peer(padded, reads[:, None])[mask], rtol=1e-3, atol=1e-3
    )
    return compare(
        f"{name} image + text, Zorro",
        _step(ours, lambda: ours(tokens).x),
        "timm",
        _step(peer, lambda: peer(padded, reads[:, None])[mask]),
        repeat=3,
    )


def _step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward, returning nothing so that gradients die with the call."""
    parameters = list(module.parameters())

    def step() -> None:
        torch.autograd.grad(forward().square().mean(), parameters)

    return step


def bag(lengths: Tensor, width: int, name: str = "text") -> Tokens:
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    x = torch.randn(len(row), width, generator=torch.Generator().manual_seed(1))
    return Tokens(
        *(t.to(DEVICE) for t in (x, row, torch.zeros_like(row), torch.zeros(len(row), 3))),
        (name,),
        len(lengths),
    )


def pad(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """(B, L, D) with zeros after the end of a row, and (B, L) bool: where there is a token."""
    mask = (
        torch.arange(int(tokens.lengths().max()), device=tokens.row.device)
        < tokens.lengths()[:, None]
    )
    padded = tokens.x.new_zeros(*mask.shape, tokens.x.shape[1])
    padded[mask] = tokens.x
    return padded, mask


class TimmBlocks(nn.Module):
    """What timm's VisionTransformer does between its embedding and its head."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        from timm.layers import LayerNorm
        from timm.models.vision_transformer import Block

        norm = partial(LayerNorm, eps=1e-5)  # ours; timm's own default is 1e-6
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def take(self, ours: Transformer) -> None:
        """The weights of our transformer."""
        new = [
            ("attention.qkv", "attn.qkv"),
            ("attention.out", "attn.proj"),
            ("up", "mlp.fc1"),
            ("down", "mlp.fc2"),
        ]
        state = {}
        for name, weight in ours.state_dict().items():
            for mine, theirs in new:
                name = name.replace(f".{mine}.", f".{theirs}.")
            state[name] = weight
        self.load_state_dict(state)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """mask: (B, L) bool over keys, or (B, 1, L, L)."""
        if mask is not None and mask.dim() == 2:
            mask = mask[:, None, None, :]
        for block in self.blocks:
            x_BLD = block(x_BLD, attn_mask=mask)
        return self.norm(x_BLD)

    def read(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens that are there."""
        out = self(x_BLD, mask)
        return out.flatten(0, 1) if mask is None else out[mask]

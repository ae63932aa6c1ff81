"""A training step of a joint encoder on records that lack 0, 30, 60 and 90 % of their values,
against filling in zeros.

Zero filling as late-fusion and single-stream libraries do it: every record goes through the network
with all its fields, placeholders where a value is missing, here in timm's blocks without a mask,
with our weights and our tokenisers. Both sides make the forward and backward pass of the same
squares of fused vectors. The last lines say how far our time is from proportional to the tokens
that are there: the time of the whole batch times the share of tokens, over the time that it took; 1
is proportional, above is better."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from amodal import modalities
from amodal.core import Batch, Column
from amodal.nn.encoder import Encoder
from benchmarks._timing import Row, compare, on_one_thread
from benchmarks.network import DEVICE, TimmBlocks

ROWS = 128
SHARES = (0.0, 0.3, 0.6, 0.9)


@on_one_thread()
def run() -> list[Row]:
    return _rows()


def _rows() -> list[Row]:
    torch.manual_seed(0)
    encoder = Encoder(fields(), size="tiny", trunk="joint").to(DEVICE)
    filled = ZeroFilled(encoder).to(DEVICE)
    whole, generator, rows = records(), torch.Generator().manual_seed(1), []
    there = {f: torch.rand(ROWS, generator=generator) for f in encoder.fields}

    def fused(batch: Batch) -> Tensor:
        return encoder.pool(encoder.encode(encoder.tokenize(batch)))["fused"].values

    torch.testing.assert_close(fused(whole), filled(whole), rtol=1e-3, atol=1e-3)
    step = partial(_step, encoder, fused)
    peer = partial(_step, filled, filled)
    full = tokens(encoder, whole)
    for share in SHARES:
        left = Batch.of(ROWS, {f: c.at(there[f] >= share) for f, c in whole.columns.items()}).to(
            DEVICE
        )
        part = tokens(encoder, left) / full
        what = f"joint tiny, {share:.0%} of values missing"
        rows.append(
            compare(
                what,
                partial(step, left),
                "zero-filled",
                partial(peer, zeros(left, whole)),
                repeat=5,
            )
        )
        if share:
            row = compare(
                what,
                partial(step, left),
                f"ours whole x {part:.2f}",
                partial(step, whole),
                repeat=5,
            )
            low, high = row.spread
            rows.append(scaled(row, part, (low * part, high * part)))
    return rows


def scaled(row: Row, part: float, spread: tuple[float, float]) -> Row:
    return Row(
        row.what,
        row.peer,
        row.speed * part,
        row.ours_ms,
        row.peer_ms * part,
        row.ours_mib,
        row.peer_mib * part,
        spread,
    )


def fields() -> dict:
    series = modalities.make("series", channels=[f"c{i}" for i in range(6)], patch=8, max_steps=256)
    return {
        "image": modalities.make("image", size=64, channels=3, patch=8),
        "signal": series,
        "text": modalities.make("text", max_length=32, patch=2),
    }


def records() -> Batch:
    """64, 32 and 32 tokens of each of the ROWS records."""
    rng, every = torch.Generator().manual_seed(0), torch.arange(ROWS)
    made = {
        "image": torch.rand(ROWS, 3, 64, 64, generator=rng),
        "signal": torch.randn(ROWS, 256, 6, generator=rng).numpy(),
        "text": torch.randint(97, 122, (ROWS, 64), generator=rng).to(torch.int32).numpy(),
    }
    kinds = fields()
    values = {f: v if isinstance(v, Tensor) else kinds[f].collate(list(v)) for f, v in made.items()}
    return Batch.of(ROWS, {f: Column(v, every) for f, v in values.items()}).to(DEVICE)


def zeros(left: Batch, whole: Batch) -> Batch:
    """The batch with zeros, or the token of zeros, where a value is missing."""
    columns = {}
    for f, column in whole.columns.items():
        gone = ~left[f].present(ROWS)
        flat = (
            column.values.clone()
            if isinstance(column.values, Tensor)
            else column.values.flat.clone()
        )
        each = (
            gone
            if isinstance(column.values, Tensor)
            else torch.repeat_interleave(gone, column.values.lengths)
        )
        flat[each] = 0
        values = (
            flat
            if isinstance(column.values, Tensor)
            else type(column.values)(flat, column.values.lengths)
        )
        columns[f] = Column(values, column.rows)
    return Batch.of(ROWS, columns)


def tokens(encoder: Encoder, batch: Batch) -> int:
    return sum(len(bag) for bag in encoder.patchify(batch).values())


class ZeroFilled(nn.Module):
    """Every record with the tokens of all fields, in one padded block; the mean of them."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        trunk = encoder.trunks["all"]
        self.tokenizers, self.place = encoder.tokenizers, encoder.add_positions
        self.blocks = TimmBlocks(encoder.width, len(trunk.blocks), encoder.num_heads)
        self.blocks.take(trunk)

    def forward(self, batch: Batch) -> Tensor:
        bags = [
            self.place(self.tokenizers[f](c, f, batch.size)).x for f, c in batch.columns.items()
        ]
        x_BLD = torch.cat([x.view(batch.size, -1, x.shape[1]) for x in bags], 1)
        return self.blocks(x_BLD, None).mean(1)


def _step(module: nn.Module, forward, batch: Batch) -> None:
    parameters = list(module.parameters())
    torch.autograd.grad(forward(batch).square().mean(), parameters, allow_unused=True)

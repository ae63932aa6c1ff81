"""Texts of 4 to 512 tokens and sounds of half a second to half a minute in one batch: our towers on
flat tokens against timm's blocks on batches padded to the longest value, with a mask, as
tokenizers' padding and most training code does it.

Both sides have the same tokenisers and weights, and their vectors are the same; a step is the
forward and backward pass of the squares of the vectors of both fields. Lengths are drawn evenly on
a logarithmic scale, with the shortest and the longest among them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from amodal import modalities
from amodal.core import Batch, Column
from amodal.nn.encoder import Encoder
from benchmarks._limits import of_peak
from benchmarks._timing import Row, compare, on_one_thread
from benchmarks.network import DEVICE, TimmBlocks, pad

ROWS = 16
LENGTHS = {"text": (4, 512), "audio": (0.5, 30.0)}  # tokens; seconds
GOAL = 1.5
AUTOCAST = {"f32": nullcontext, "bf16": lambda: torch.autocast(DEVICE, torch.bfloat16)}

PEERS = ("timm",)


@on_one_thread()
def run() -> list[Row]:
    return [_row("tiny", "f32", 5), _row("small", "bf16", 3)]


def _row(size: str, precision: str, repeat: int) -> Row:
    torch.manual_seed(0)
    encoder = Encoder(fields(), size=size).to(DEVICE)
    padded, batch = Padded(encoder).to(DEVICE), records().to(DEVICE)

    def mine() -> dict[str, Tensor]:
        return {f: column.values for f, column in encoder.features(batch).columns.items()}

    theirs = lambda: padded(batch)  # noqa: E731
    with torch.no_grad():
        for f, vectors in mine().items():
            torch.testing.assert_close(vectors, theirs()[f], rtol=1e-3, atol=1e-3)
    step = _step(encoder, mine, AUTOCAST[precision])
    row = compare(
        f"{size}, {precision}",
        step,
        "timm, padded, mask",
        _step(padded, theirs, AUTOCAST[precision]),
        repeat=repeat,
    )
    bags = encoder.patchify(batch)
    counts = ", ".join(
        f"{f} {len(b)} of {b.size * int(b.lengths().max())}" for f, b in bags.items()
    )
    return replace(
        of_peak(row, step, precision),
        goal=GOAL,
        note=f"Tokens of {ROWS} records, of the padded ones: {counts}.",
    )


def fields() -> dict:
    return {
        "text": modalities.make("text", max_length=512, patch=1),
        "audio": modalities.make("audio", rate=16000, max_seconds=30.0, mels=64, patch=(8, 64)),
    }


def records() -> Batch:
    rng = np.random.default_rng(0)
    lengths = {f: np.exp(rng.uniform(*np.log(ends), ROWS)) for f, ends in LENGTHS.items()}
    for f, ends in LENGTHS.items():
        lengths[f][:2] = ends
        rng.shuffle(lengths[f])
    texts = [rng.integers(97, 122, int(n)).astype(np.int32) for n in lengths["text"]]
    sounds = [rng.normal(size=int(16000 * n)).astype(np.float32) for n in lengths["audio"]]
    kinds = fields()
    values = {"text": kinds["text"].collate(texts), "audio": kinds["audio"].collate(sounds)}
    return Batch.of(ROWS, {f: Column(v, torch.arange(ROWS)) for f, v in values.items()})


class Padded(nn.Module):
    """Each field in a padded block through timm's transformer, and the mean of what is no padding."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.tokenizers, self.place = encoder.tokenizers, encoder.add_positions
        self.blocks = nn.ModuleDict()
        for f, trunk in encoder.trunks.items():
            self.blocks[f] = TimmBlocks(encoder.width, len(trunk.blocks), encoder.num_heads)
            self.blocks[f].take(trunk)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        vectors = {}
        for f, column in batch.columns.items():
            x_BLD, mask_BL = pad(self.place(self.tokenizers[f](column, f, batch.size)))
            out_BLD = self.blocks[f](x_BLD, mask_BL) * mask_BL.unsqueeze(2)
            vectors[f] = out_BLD.sum(1) / mask_BL.sum(1, keepdim=True)
        return vectors


def _step(
    module: nn.Module, vectors: Callable[[], dict[str, Tensor]], half: Callable
) -> Callable[[], None]:
    parameters = list(module.parameters())

    def step() -> None:
        with half():
            found = vectors()
        loss = torch.stack([v.float().square().mean() for v in found.values()]).sum()
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return step

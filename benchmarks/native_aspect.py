"""Photographs of many sizes and aspects in one batch: our flat lists of patches against timm's
NaFlexVit, which pads each batch to its longest picture and masks the rest.

Both are vision transformers of one width, depth, number of heads and patch, read the same pictures
at the same sizes, and give the mean of the patches; a step is the forward and backward pass of the
squares of the vectors. Patches are cut beforehand on both sides. "Mixed" has aspects from 1:3 to
3:1 and sides from 64 pixels; "photographs" are 4:3, 3:2 and square, upright and lying, at nearly
the full number of patches, where there is next to nothing to pad. Weights differ, and so do
details: NaFlexVit interpolates a learned table of positions, ours are sines and cosines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Ragged
from amodal.modalities.image import Image
from amodal.modalities.shared.native_aspect import PLACE
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from benchmarks._timing import Row, compare, on_one_thread
from benchmarks.network import DEVICE

SIZE, PATCH, SIDE, PICTURES = "tiny", 16, 224, 16
PEERS = ("timm",)
PEER = "naflexvit_base_patch16_gap"


@on_one_thread()
def run() -> list[Row]:
    rng = np.random.default_rng(0)
    mixed = [_mixed(rng) for _ in range(PICTURES)]
    ratios = (4 / 3, 3 / 4, 3 / 2, 2 / 3, 1.0)
    photographs = [(round(900 / r), 900) for r in np.resize(ratios, PICTURES).tolist()]
    return [_row("mixed", mixed), _row("photographs", photographs)]


def _mixed(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width, evenly on logarithmic scales."""
    side, ratio = np.exp(rng.uniform(np.log(64), np.log(600))), np.exp(rng.uniform(-1.1, 1.1) / 2)
    return max(8, round(side / ratio)), max(8, round(side * ratio))


def _row(what: str, shapes: list[tuple[int, int]]) -> Row:
    import timm

    torch.manual_seed(0)
    image = Image(SIDE, 3, PATCH, "native")
    rng = np.random.default_rng(1)
    values = [image.decode(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    patches = image.collate(values)
    assert isinstance(patches, Ragged)
    ours = Encoder({"image": image}, size=SIZE).to(DEVICE)
    kind = size_of(SIZE)
    peer = timm.create_model(
        PEER, num_classes=0, embed_dim=kind.width, depth=kind.depth, num_heads=kind.heads
    ).to(DEVICE)
    column = Column(patches, torch.arange(len(values)))
    batch = Batch.of(len(values), {"image": column}).to(DEVICE)
    padded = {name: t.to(DEVICE) for name, t in _padded(patches, values).items()}
    row = compare(
        f"{what}, {SIZE}",
        _step(ours, lambda: ours.features(batch)["image"].flat),
        "timm NaFlexVit",
        _step(peer, lambda: peer(padded)),
    )
    n, longest = len(values), int(patches.lengths.max())
    return replace(
        row,
        note=f"{what}: {len(patches.flat)} patches of {n} pictures, padded {n * longest}; "
        f"a picture takes {row.ours_ms / n:.1f} ms and {row.ours_mib / n:.1f} MiB of ours, "
        f"{row.peer_ms / n:.1f} ms and {row.peer_mib / n:.1f} MiB of NaFlexVit's.",
    )


def _padded(patches: Ragged, values: list[np.ndarray]) -> dict[str, Tensor]:
    """What NaFlexVit reads: patches, their rows and columns, and which exist."""
    lists = [part[:, PLACE:] for part in patches.split()]
    places = [
        torch.cartesian_prod(torch.arange(v.shape[1] // PATCH), torch.arange(v.shape[2] // PATCH))
        for v in values
    ]
    stack = nn.utils.rnn.pad_sequence
    longest = int(patches.lengths.max())
    return {
        "patches": stack(lists, batch_first=True),
        "patch_coord": stack(places, batch_first=True),
        "patch_valid": torch.arange(longest) < patches.lengths[:, None],
    }


def _step(module: nn.Module, vectors: Callable[[], Tensor]) -> Callable[[], None]:
    parameters = list(module.parameters())

    def step() -> None:
        torch.autograd.grad(vectors().square().mean(), parameters, allow_unused=True)

    return step

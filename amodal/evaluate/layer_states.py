"""What the layers of backbones give for records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import Column
from amodal.data import Dataset
from amodal.inference.forward_passes import AnyEncoder, Device, sequential_loader
from amodal.nn.backbones.body import Layered
from amodal.nn.encoder import Encoder

BATCH = 64


def layered_bodies(encoder: AnyEncoder) -> dict[str, Layered]:
    """Field -> the network of its backbone, where that says what its layers give."""
    if not isinstance(encoder, Encoder):
        return {}
    bodies = {f: getattr(t, "body", None) for f, t in encoder.tokenizers.items()}
    return {f: body for f, body in bodies.items() if isinstance(body, Layered)}


@torch.no_grad()
def states_of_layers(
    bodies: Mapping[str, Layered],
    dataset: Dataset,
    indices: Sequence[int] | np.ndarray,
    device: Device,
    progress: Callable[[int], object] | None = None,
) -> dict[str, list[Column]]:
    """The mean states of each layer.

    Args:
        bodies: Of `layered_bodies`.
        dataset: Has the fields.
        indices: Which records; rows count from zero.
        device: Where the bodies are.
        progress: Called with the number of records just done.

    Returns:
        Field -> layer by layer (N, D) on the CPU, of the records that have it.
    """
    states: dict[str, list[list[Tensor]]] = {f: [] for f in bodies}
    rows: dict[str, list[Tensor]] = {f: [] for f in bodies}
    done = 0
    for batch in sequential_loader(dataset.select(list(bodies)), indices, BATCH):
        moved = batch.to(device)
        for field, body in bodies.items():
            if len(column := moved[field]):
                states[field].append([s.float().cpu() for s in body.hidden_states(column.values)])
                rows[field].append(done + column.rows.cpu())
        done += batch.size
        if progress is not None:
            progress(batch.size)
    return {
        f: [Column(torch.cat(layer), torch.cat(rows[f])) for layer in zip(*states[f])]
        for f in bodies
        if states[f]
    }

"""Maps of features: patches of pictures as grids, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Tokens
from amodal.core.matmul import fast_products
from amodal.inference.choose_field import choose_field
from amodal.inference.forward_passes import eval_mode, sequential_loader
from amodal.maps.items import Items, View
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import is_picture
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import token_grids

BATCH = 32
Patches = Callable[[Batch], Tokens]
"""A batch with one field -> the tokens of its patches."""


def dense_fields(fields: dict[str, Modality]) -> list[str]:
    """The fields whose values have places: pictures."""
    return [name for name, modality in fields.items() if is_picture(modality)]


def dense_field(fields: dict[str, Modality], wanted: str | None, data: Sequence[str] = ()) -> str:
    """The field of the encoder that is mapped.

    Args:
        fields: Of the encoder.
        wanted: What the user asked for; None for the only one, or the only one that the data has.
        data: Fields of the data.

    Raises:
        AmodalError: Without one, for one that has no places, and for more than one.
    """
    dense = dense_fields(fields)
    if not dense:
        raise AmodalError(
            "maps are of pictures, and this run has none: its fields are "
            f"{', '.join(f'{n} ({m.kind})' for n, m in fields.items())}. Features of what lies on "
            "the ground are written by `amodal embed --dense`"
        )
    return choose_field(dense, wanted, data, what="with pictures")


@fast_products()
@torch.no_grad()
def grids(
    encoder: Encoder, view: View, patches: Patches, device: torch.device
) -> Iterator[dict[int, Tensor]]:
    """Grids of a view's pictures, in batches of `BATCH`.

    Args:
        encoder: Put into evaluation mode.
        view: The pictures.
        patches: What is computed of them.
        device: Where the encoder is.

    Yields:
        Number of the picture in the view -> (rows, columns, D) float32 on the CPU; without those
        that cannot be read.
    """
    start = 0
    with eval_mode(encoder):
        for batch in sequential_loader(view.dataset, view.rows, BATCH):
            any_value = any(len(column) for column in batch.columns.values())
            made = token_grids(patches(batch.to(device))) if any_value else {}
            yield {start + row: grid.float().cpu() for row, grid in made.items()}
            start += batch.size


def check_dense(encoder: Encoder, items: Items, patches: Patches, device: torch.device) -> None:
    """Check with one picture that the encoder makes a grid of it.

    Raises:
        AmodalError: If it does not.
    """
    view = items.views[0]
    field = next(iter(view.dataset.fields))
    for grid in grids(encoder, View(view.dataset, view.rows[:BATCH]), patches, device):
        if any(x.shape[0] * x.shape[1] > 1 for x in grid.values()):
            return
    raise AmodalError(
        f"the encoder of this run makes one vector of a value of {field}, or tokens that form no "
        "grid, so that there is no map of it. Take a network that keeps places, such as the "
        "default one or a ViT"
    )


def item_grids(
    encoder: Encoder,
    items: Items,
    patches: Patches,
    device: torch.device,
    places: np.ndarray,
) -> Iterator[tuple[list[int], dict[int, tuple[Tensor, ...]]]]:
    """Grids of all views of some items, in batches.

    Args:
        encoder: The encoder.
        items: What is mapped.
        patches: What is computed.
        device: Where the encoder is.
        places: Which items.

    Yields:
        The items of a batch, and of those that can be read the grid of each view.
    """
    parts = [
        grids(encoder, View(view.dataset, view.rows[places]), patches, device)
        for view in items.views
    ]
    for start, made in zip(range(0, len(places), BATCH), zip(*parts)):
        batch = places[start : start + BATCH].tolist()
        whole = {
            batch[n - start]: tuple(grid[n] for grid in made)
            for n in made[0]
            if all(n in grid for grid in made)
        }
        yield batch, whole

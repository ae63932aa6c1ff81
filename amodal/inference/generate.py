"""Values of a field that a method generates from others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.core.protocols import Generates
from amodal.data import Dataset
from amodal.inference.forward_passes import eval_mode, sequential_loader
from amodal.methods.contract import Method


def generated(
    method: Method | None,
    dataset: Dataset,
    indices: Sequence[int] | np.ndarray,
    *,
    batch: int = 64,
    beams: int = 4,
    progress: Callable[[int], object] | None = None,
) -> list[str | None]:
    """Generate the field that a method was trained to generate.

    Args:
        method: One that has `generate`, see `amodal.core.protocols.Generates`.
        dataset: Where the records are; it may lack the field.
        indices: Which records.
        batch: Records at once.
        beams: Of the beam search.
        progress: Called with the number of records just done.

    Returns:
        A text for each record, None where there is nothing to generate it from.

    Raises:
        AmodalError: If the method generates nothing.
    """
    if not isinstance(method, Generates):
        name = "an encoder" if method is None else type(method).__name__
        raise AmodalError(f"{name} generates no field; cuni_mmt and deepvs do")
    texts: list[str | None] = []
    device = next(method.parameters()).device
    with eval_mode(method):
        for part in sequential_loader(dataset, indices, batch):
            done = method.generate(part.to(device), beams=beams)
            texts += [done.get(row) for row in range(part.size)]
            if progress is not None:
                progress(part.size)
    return texts

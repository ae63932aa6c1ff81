"""What predicts labels in a run, and what it gives for records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import Column
from amodal.data import Dataset
from amodal.inference.embed import embed_records
from amodal.inference.forward_passes import AnyEncoder
from amodal.inference.predict import MethodPredictor
from amodal.inference.probe_head import ProbeHead
from amodal.nn.heads.supervised import SupervisedHead

AnyHead = SupervisedHead | MethodPredictor | ProbeHead
"""A head on features, a whole method, or a head on frozen features and raw values."""


def head_outputs(
    head: AnyHead,
    encoder: AnyEncoder,
    dataset: Dataset,
    indices: Sequence[int] | np.ndarray,
    *,
    progress: Callable[[int], object] | None = None,
) -> Column:
    """The outputs of a run's head for records, which `head.predictions` reads.

    Args:
        head: Of the run.
        encoder: Of the run.
        dataset: Where the records are, with the fields of the encoder.
        indices: Which records.
        progress: Called with the number of records just done.

    Returns:
        (N, outputs) on the CPU, of the records that have what the head reads; rows count from zero.
    """
    if not isinstance(head, SupervisedHead):  # others read the records themselves
        return head.outputs(dataset, indices, progress=progress)
    embedded = embed_records(encoder, dataset, indices, progress=progress, labels=False)
    return head.predict(embedded.features)

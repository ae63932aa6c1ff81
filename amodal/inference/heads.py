"""What predicts labels in a run, and what it gives for records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.core import AmodalError, Column
from amodal.core.part import Spec
from amodal.data import Dataset
from amodal.inference.embed import embed_records
from amodal.inference.forward_passes import AnyEncoder
from amodal.inference.predict import MethodPredictor
from amodal.inference.probe_head import ProbeHead
from amodal.methods.contract import Method
from amodal.methods.saved import SavedRun, encoder_spec, whole_method
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead

AnyHead = SupervisedHead | MethodPredictor | ProbeHead
"""A head on features, a whole method, or a head on frozen features and raw values."""


def head_of(run: SavedRun, folder: Path, device: torch.device) -> AnyHead | None:
    """The head of a run, None if it learnt to predict no label.

    Args:
        run: Opened.
        folder: Where it lies.
        device: Where its weights are.

    Raises:
        AmodalError: For a damaged head.
    """
    if entry := run.config.get("head"):
        return ProbeHead.load(folder, entry, run.encoder)
    if run.head is not None:
        return run.head.to(device)
    return MethodPredictor(run.method, run.targets) if run.targets else None


def method_of_head(
    head: AnyHead | None, encoder: Encoder, config: dict[str, Any], path: Path | None
) -> tuple[Method | None, Spec]:
    """The method of a run that has none of its own, None for an encoder alone, and its spec.

    Raises:
        AmodalError: For a copy by pickle of a run whose method predicts.
    """
    if isinstance(head, SupervisedHead):  # of format 1, or unpickled
        return whole_method(encoder, head, config)
    if isinstance(head, MethodPredictor):
        raise AmodalError(
            "a copy of a model by pickle has lost its method and cannot be saved; copy the run "
            f"folder {path or ''} instead"
        )
    return None, encoder_spec(encoder)


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

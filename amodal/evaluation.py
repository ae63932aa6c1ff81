"""What `Model.evaluate` and `Ensemble.evaluate` share: how data is read before protocols run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from amodal.data import Dataset, Openable
from amodal.evaluate import Report, changes_records
from amodal.evaluate import evaluate as run_protocols
from amodal.evaluate.context import Run
from amodal.inference.forward_passes import AnyEncoder
from amodal.inference.partial_data import read_partial
from amodal.modalities import Modality


def evaluate_run(
    run: Run,
    data: Openable,
    fields: Mapping[str, Modality],
    *,
    protocols: Sequence[str] | None,
    baseline: AnyEncoder | None,
    device: torch.device,
    with_features: Callable[[Dataset], Dataset] | None = None,
    **options: Any,
) -> Report:
    """Read data as a run does, and run protocols on it.

    Args:
        run: What is evaluated.
        data: Whatever `amodal.open` takes; it may lack some of the fields, with a warning.
        fields: Of the run.
        protocols: Names; those that fit the data if None.
        baseline: The encoder before training.
        device: Where the encoders are.
        with_features: Takes cached features of frozen backbones; not asked where a protocol changes
            records, whose features are not cached.
        options: Of `amodal.evaluate.evaluate`.
    """
    needs_changes = changes_records(() if protocols is None else protocols)
    dataset = read_partial(data, fields)
    if with_features is not None and not needs_changes:
        dataset = with_features(dataset)
    chosen: dict[str, Any] = {"protocols": tuple(protocols)} if protocols else {}
    return run_protocols(run, dataset, baseline=baseline, device=device, **chosen, **options)

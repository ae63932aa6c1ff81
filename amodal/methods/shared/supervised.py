"""What pages that learn from labels share: the labels of a batch as features, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from amodal.core import Batch, Column, Embeddings, unknown
from amodal.methods.contract import Columns, FeatureRecord
from amodal.nn.heads.supervised import SupervisedHead, Survival
from amodal.objectives.cox import cox


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures(FeatureRecord):
    """Features of rows some of which have labels.

    Args:
        label: Name of a label -> (N,), of the rows that have it.
    """

    label: Columns


@dataclass(frozen=True, kw_only=True)
class HeadFeatures(LabelledFeatures):
    """What a supervised head predicts, and the labels.

    Args:
        outputs: (N, outputs) of the head.
    """

    outputs: Column


def label_columns(batch: Batch, names: Sequence[str]) -> dict[str, Column]:
    """The labels of a batch by their names. Raises AmodalError for one that it does not bring."""
    for name in names:
        if name not in batch.labels:
            raise unknown("label of this batch", name, batch.labels)
    return {name: batch.labels[name] for name in names}


def head_losses(
    head: SupervisedHead,
    outputs: Column,
    features: LabelledFeatures,
    *,
    smoothing: float = 0.0,
    survival: Survival = cox,
) -> dict[str, Tensor]:
    """The loss of each target of a head.

    Args:
        head: Knows the targets.
        outputs: (N, outputs) of the head.
        features: Hold the labels.
        smoothing: Of the labels that are classes.
        survival: The loss of times until an event.

    Returns:
        As of `SupervisedHead.losses`.
    """
    columns = {f"label/{name}": column for name, column in features.label.items()}
    known = Embeddings(columns, features.size)
    return head.losses(outputs, known, smoothing=smoothing, survival=survival)

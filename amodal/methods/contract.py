"""What a method is. One test holds every method to this (tests/methods/test_contract.py).

What a method can do beside being trained (learn in stages, predict labels, retrieve records, …) it
says by the protocols of `amodal.core.protocols`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings
from amodal.core import features as core_features
from amodal.core.batch import check_batch
from amodal.core.clock import Clock as Clock
from amodal.core.features import Columns as Columns
from amodal.core.features import FeatureRecord as FeatureRecord
from amodal.nn.encoder import Encoder

Features = Embeddings
"""The features of most methods: source -> vectors. Others define a `FeatureRecord`."""


class Method(nn.Module):
    """A method of self-supervised learning: features of rows, then losses of a batch.

    `features` may not couple rows, and may not depend on anything random but the rows' seeds;
    `losses` may couple rows. The loop can therefore compute features piece by piece and rank by
    rank, and losses once over the whole batch, and the update is that of one big batch. So whatever
    uses batch statistics (BatchNorm in a projector, centring) belongs in `losses`. BatchNorm of a
    backbone is the one exception: the loop sums its statistics over ranks, and does not split such
    a batch.
    """

    encoder: Encoder
    """What embeds records after training."""
    views: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ("plain",)
    """How each value is augmented, the same for all fields or field by field (a field that is not
    named is plain): one view keeps the field's name as its source, n views make the sources
    `field:1` … `field:n`."""
    min_batch_size: int = 1
    """Rows that a batch needs for there to be anything to learn."""
    compares_fields: bool = True
    """Whether the heads of its encoder, where it has any, lead all fields into one space."""
    labels: tuple[str, ...] = ()
    """The labels that batches must bring along, for methods that learn from some."""
    lr_multipliers: Mapping[str, float] = {}
    """The beginning of a parameter's name -> times the learning rate; the first that fits counts,
    others learn at the rate itself."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # A loop of one's own calls these two, and any page would fail somewhere inside.
        for name, check in (("features", check_batch), ("losses", _check_features)):
            if callable(function := cls.__dict__.get(name)):
                setattr(cls, name, _checked(function, check))

    def features(self, batch: Batch) -> core_features.Features:
        """Compute what the losses need of each row.

        Args:
            batch: B rows, with the views and labels that the method asks for.

        Returns:
            Columns of vectors or scalars, one entry a row that has it: `Embeddings`, or a record
            of the method's own (`FeatureRecord`).
        """
        raise NotImplementedError

    # Any: each method takes the record that its own `features` returns
    def losses(self, features: Any) -> dict[str, Tensor]:
        """Compute the terms of the loss, whose sum the loop minimises.

        Args:
            features: Of the whole batch, of the kind that `features` returns.

        Returns:
            name -> scalar. A term without a row to compare is zero, and still part of the graph.
        """
        raise NotImplementedError

    @property
    def spec_options(self) -> Mapping[str, object]:
        """Options that a run stores in place of the user's, such as a part for the name of a
        folder, so that it opens when the folder is gone."""
        return {}

    def on_step_end(self, clock: Clock) -> None:
        """Called after each optimizer step and nowhere else: moving averages, centres, schedules.

        Args:
            clock: How far training is.
        """


def _checked(function: Callable[..., Any], check: Callable[[object], None]) -> Callable[..., Any]:
    """A method of a `Method` that checks its first argument."""

    @wraps(function)
    def call(self: Method, value: Any, *arguments: Any, **options: Any) -> Any:
        check(value)
        return function(self, value, *arguments, **options)

    return call


def _check_features(features: object) -> None:
    if not isinstance(features, core_features.Features):
        raise AmodalError(
            "losses are of what `features` returns, as in method.losses(method.features(batch)), "
            f"not of {'None' if features is None else f'a {type(features).__name__}'}"
        )


class StagedMethod(Method):
    """A method that learns in stages; see `amodal.core.protocols.Staged`."""

    stages: tuple[float, ...] = (1.0,)
    """Where stages end, as shares of the steps."""

    def on_stage_start(self, stage: int) -> None:
        """Freeze and unfreeze, but change no parameter and no buffer.

        Args:
            stage: Counted from 0.
        """

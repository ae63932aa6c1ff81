"""What a method can do beside being trained, one verb each. The loop and the verbs ask by
`isinstance`.

A method says that it can by having the members; it inherits from nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core.batch import Batch
from amodal.core.column import Column
from amodal.core.embeddings import Embeddings


@runtime_checkable
class Embeds(Protocol):
    """Gives vectors. A method whose `encoder` gives them need not say so itself."""

    def embed(self, batch: Batch) -> Embeddings:
        """One vector for each source of each row. Returns: source -> (N, D)."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """Predicts labels by more than a head on the features of its encoder (`amodal predict`)."""

    labels: tuple[str, ...]

    def predict(self, batch: Batch) -> Column:
        """Predict the labels of each row that it can.

        Returns:
            (N, outputs), target after target: logits of classes, numbers in standard deviations,
            log hazards.
        """
        ...


@runtime_checkable
class PredictsFromFeatures(Protocol):
    """Predicts labels by a head on the features of its encoder, which can be embedded before."""

    label_head: nn.Module


@runtime_checkable
class Retrieves(Protocol):
    """Names the records it was trained on itself, without an index (`amodal search --generate`).

    query_field: the field that it reads.
    """

    query_field: str

    def retrieve(self, batch: Batch, *, beams: int) -> tuple[Column, Tensor, Tensor]:
        """Name records for the rows that have the query field.

        Returns:
            (N, beams) int64 numbers of records in the order of training, best first, -1 where there
            are no more; (N, beams) their log probabilities; (records, levels) int64 tokens of the
            identifier of every record, -1 behind its end.
        """
        ...


@runtime_checkable
class Collects(Protocol):
    """Makes its own data from a batch, such as rollouts of a policy."""

    def collect(self, batch: Batch) -> Batch:
        """Called after the loader and without a gradient; what it returns is trained on."""
        ...


@runtime_checkable
class Staged(Protocol):
    """Learns in stages.

    stages: where they end, as shares of the steps. Each has a warm-up and a decay of its own and a
    fresh optimizer.
    """

    stages: tuple[float, ...]

    def on_stage_start(self, stage: int) -> None:
        """Freeze and unfreeze. Called at the start, when stage 1, 2, … begins, and after a resume.

        Changes no parameter and no buffer, so that a resumed run finds them as they were.
        """
        ...


@runtime_checkable
class Refreshes(Protocol):
    """Looks at all records again when a stage begins.

    refresh_first: whether also before the first stage.
    """

    refresh_first: bool

    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> Tensor | None:
        """Called once when stage 1, 2, … begins, before `on_stage_start`. May fill buffers and copy
        weights.

        What the first process makes of it holds for all, and an average of the weights begins
        again.

        Args:
            embed_all: computes the encoder's features of all records to train on and, as
            `label/NAME`, the labels that the method
                learns from, on the CPU.

        Returns:
            A group for each record (n,) int64, of which later batches hold one only (-1: none of
            this record), or None for batches of all.
        """
        ...


@runtime_checkable
class FitsStatistics(Protocol):
    """Needs to know all data before it learns, such as a vocabulary."""

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Called once before the first step of a run, not after a resume. May fill buffers, the
        same on every process.

        Args:
            records: all records to train on, in order and not augmented.
        """
        ...


@runtime_checkable
class CombinesGradients(Protocol):
    """Gradient surgery, at the cost of one backward pass for each term of the loss."""

    def combine_gradients(self, gradients: dict[str, Tensor]) -> Tensor:
        """Args: gradients: term -> its gradient over all that learns, (P,). Returns: (P,), what to
        step along."""
        ...


@runtime_checkable
class HasLogitScale(Protocol):
    """Learns by InfoNCE or the sigmoid loss between every two sources, so that others can score
    pairs by its loss."""

    def logit_scale(self) -> nn.Module | None:
        """The learned scale of the cosines of `encoder(batch)`, with a bias for the sigmoid loss;
        None for another loss."""
        ...


@runtime_checkable
class Optimizers(Protocol):
    """Several players with losses of their own, such as a generator and a discriminator."""

    def optimizers(
        self, make: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]
    ) -> dict[str, torch.optim.Optimizer]:
        """One optimizer for each player.

        Args:
            make: parameters -> an optimizer as the recipe says.

        Returns:
            The beginning of the names of a player's loss terms -> its optimizer. A term changes the
            parameters of its player only.
        """
        ...

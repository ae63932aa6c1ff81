"""Optional capabilities of methods, one protocol each.

A method has a capability by having its members; it does not inherit from the protocol. The training
loop and the verbs of the command line test for it with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core.batch import Batch
from amodal.core.column import Column
from amodal.core.embeddings import Embeddings
from amodal.core.region_text import RegionText
from amodal.core.tokens import Tokens


@runtime_checkable
class Embeds(Protocol):
    """Computes vectors itself. Not needed by a method whose `encoder` computes them."""

    def embed(self, batch: Batch) -> Embeddings:
        """Compute one vector for each source of each row.

        Returns:
            Source -> (N, D).
        """
        ...


@runtime_checkable
class Predicts(Protocol):
    """Predicts labels, by more than a head on the features of its encoder (`amodal predict`)."""

    labels: tuple[str, ...]

    def predict(self, batch: Batch) -> Column:
        """Predict the labels of rows.

        Returns:
            (N, outputs) of the rows that can be predicted. The outputs of all targets are
            concatenated: logits of classes, numbers in standard deviations, log hazards.
        """
        ...


@runtime_checkable
class PredictsByField(Protocol):
    """Predicts labels after each field that it reads (`amodal predict --by-field`)."""

    def predict_by_field(self, batch: Batch) -> dict[str, Column]:
        """Predict the labels of rows, step by step.

        Returns:
            "" for before any field, and each field in the order in which it is read -> (B, outputs)
            of all rows, as of `Predicts.predict`.
        """
        ...


@runtime_checkable
class Generates(Protocol):
    """Generates the values of one field from others (`amodal predict`, `Model.generate`).

    Attributes:
        generated_field: The field.
    """

    generated_field: str

    def generate(self, batch: Batch, *, beams: int = 4) -> dict[int, str]:
        """Generate a value for each row that has anything to generate it from.

        Args:
            batch: Need not have the generated field.
            beams: Of the beam search.

        Returns:
            Row -> text.

        Raises:
            AmodalError: If the method was trained without its decoder.
        """
        ...


@runtime_checkable
class PredictsFromFeatures(Protocol):
    """Predicts labels by a head on the features of its encoder."""

    label_head: nn.Module


@runtime_checkable
class Retrieves(Protocol):
    """Generates identifiers of its training records, without an index (`amodal search --generate`).

    Attributes:
        query_field: The field of queries.
    """

    query_field: str

    def retrieve(self, batch: Batch, *, beams: int) -> tuple[Column, Tensor, Tensor]:
        """Retrieve records for the rows that have the query field.

        Returns:
            (N, beams) int64, numbers of training records, best first, -1 where there are no more;
            (N, beams), their log probabilities;
            (records, levels) int64, tokens of the identifier of every record, -1 after its end.
        """
        ...


@runtime_checkable
class MatchesFields(Protocol):
    """Judges whether the fields of a row belong together (`amodal search --rerank`)."""

    def match_logits(self, batch: Batch) -> Column:
        """Judge rows.

        Returns:
            (N,) logits, of the rows that have what is compared.

        Raises:
            AmodalError: If the method was trained without its matching head.
        """
        ...


@runtime_checkable
class Collects(Protocol):
    """Makes its own data from a batch, such as rollouts of a policy."""

    def collect(self, batch: Batch) -> Batch:
        """Called after the loader and without a gradient. The result is trained on."""
        ...


@runtime_checkable
class Staged(Protocol):
    """Learns in stages.

    Each stage has its own warm-up and decay, and a fresh optimizer unless it `KeepsOptimizer`.

    Attributes:
        stages: The ends of the stages, as shares of the steps.
    """

    stages: tuple[float, ...]

    def on_stage_start(self, stage: int) -> None:
        """Freeze and unfreeze. Called at the start of every stage, and after a resume.

        It must not change a parameter or a buffer, because a resumed run loads them before.
        """
        ...


@runtime_checkable
class KeepsOptimizer(Staged, Protocol):
    """Its stages are those of the learning rate alone.

    Attributes:
        keeps_optimizer: Whether the averages of the optimizer go on from stage to stage. Then a
            stage must not freeze a parameter.
    """

    keeps_optimizer: bool


@runtime_checkable
class Refreshes(Protocol):
    """Looks at all records when a stage starts.

    Attributes:
        refresh_first: Whether also before the first stage.
    """

    refresh_first: bool

    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> Tensor | None:
        """Called once when a stage starts, before `on_stage_start`.

        It may fill buffers and copy weights. The result of the first process holds for all, and an
        average of the weights starts over.

        Args:
            embed_all: Computes the encoder's features of all training records on the CPU, with the
                labels that the method learns from as `label/NAME`.

        Returns:
            (n,) int64, the group of each record, or None. Later batches hold records of one group;
            records of group -1 are left out.
        """
        ...


@runtime_checkable
class FitsStatistics(Protocol):
    """Fits statistics of all data before training, such as a vocabulary."""

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Called once before the first step of a run, not after a resume.

        It may fill buffers.

        Args:
            records: All training records, in order and not augmented.
        """
        ...


@runtime_checkable
class CombinesGradients(Protocol):
    """Combines the gradients of its loss terms itself (gradient surgery).

    It costs one backward pass for each term.
    """

    def combine_gradients(self, gradients: dict[str, Tensor]) -> Tensor:
        """Combine the gradients of the loss terms.

        Args:
            gradients: Term -> (P,), its gradient by all parameters that require one.

        Returns:
            (P,), the gradient for the optimizer.
        """
        ...


@runtime_checkable
class LocatesText(Protocol):
    """Compares patches with texts in a way of its own (`amodal map --queries`).

    Not needed by a method whose heads take patches into the space of texts
    (`amodal.nn.patch_vectors`).
    """

    def patch_vectors(self, batch: Batch, field: str) -> Tokens:
        """Unit vectors (T, E) of the patches of a field, in reading order.

        Raises:
            AmodalError: For a field whose patches cannot be compared with texts.
        """
        ...

    def patch_queries(self, z_KD: Tensor, field: str) -> Tensor:
        """What of the vectors of K texts in the aligned space is compared with patches.

        Returns:
            (K, E), not normalised.
        """
        ...


@runtime_checkable
class PlacesTexts(Protocol):
    """Places texts on regions of pictures (`amodal map --texts`).

    Attributes:
        text_field: The field of the texts.
    """

    text_field: str

    def place_texts(self, batch: Batch, field: str) -> list[RegionText]:
        """Place the parts of each row's own text on regions of its picture.

        Args:
            batch: With both fields.
            field: Of the pictures.

        Returns:
            Along each text its parts.
        """
        ...

    def write_texts(
        self, batch: Batch, field: str, *, beams: int = 4, longest: int = 40
    ) -> list[RegionText]:
        """Write a text for each region of each picture.

        Args:
            batch: With the pictures.
            field: Of the pictures.
            beams: Of the beam search.
            longest: Ids of a text at most.

        Returns:
            The likeliest texts of each row first.

        Raises:
            AmodalError: If the method was trained without its writer.
        """
        ...

    def pair_scores(self, batch: Batch, field: str) -> Tensor:
        """(n, n) the score of each picture with each text, of the rows that have both."""
        ...


@runtime_checkable
class Segments(Protocol):
    """Has learnt classes of places, from all fields of a row (`amodal map`).

    Attributes:
        classes: How many.
    """

    classes: int

    def class_maps(self, batch: Batch) -> Column:
        """Probabilities of the classes, of the rows that have any field.

        Returns:
            (N, classes, rows, columns).

        Raises:
            AmodalError: For a method that learnt a label of whole records.
        """
        ...


@runtime_checkable
class HasLogitScale(Protocol):
    """Learns by InfoNCE or the sigmoid loss between every two sources.

    Data curation can then score pairs by its loss.
    """

    def logit_scale(self) -> nn.Module | None:
        """The learned scale of the cosines, with a bias for the sigmoid loss; None without one."""
        ...


@runtime_checkable
class DescribesClasses(Protocol):
    """Classifies by attributes of classes, also of classes that it was not trained on.

    Attributes:
        description_field: The field, a table, whose values describe a class.
    """

    @property
    def description_field(self) -> str: ...

    def class_logits(self, batch: Batch, described: Batch) -> Embeddings:
        """Compare records with classes.

        Args:
            batch: B rows.
            described: C rows, whose `description_field` describes a class each.

        Returns:
            Field -> (N, C) logits of the rows that have it.
        """
        ...


@runtime_checkable
class Optimizers(Protocol):
    """Has players with losses of their own, such as a generator and a discriminator."""

    def optimizers(
        self, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    ) -> dict[str, torch.optim.Optimizer]:
        """Make one optimizer for each player.

        Args:
            make: Parameters -> the optimizer of the recipe.

        Returns:
            Prefix of the names of a player's loss terms -> its optimizer. A term changes only the
            parameters of its player.
        """
        ...

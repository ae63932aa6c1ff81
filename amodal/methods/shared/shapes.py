"""Base classes of most papers: towers with objectives, a masked autoencoder, a student with a
teacher."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Ragged,
    Tokens,
    field_of,
    name_code,
    unknown,
)
from amodal.core.features import Features
from amodal.core.host import host_copy, take
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep, random_keep_units
from amodal.methods.contract import Clock, Method
from amodal.methods.shared.whole_words import units
from amodal.nn.batch_norm import average_statistics, set_follows
from amodal.nn.encoder import Encoder
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.multi_vector import token_column as token_column
from amodal.nn.scale import Scale

Objective = Callable[[Embeddings], dict[str, Tensor]]


def field_pairs(z: Embeddings, anchor: str | None = None) -> list[tuple[str, str]]:
    """Every two sources of different fields.

    Args:
        z: Vectors of sources; the first view of a field stands for it.
        anchor: A field; then only its pairs, in which it comes first.

    Raises:
        AmodalError: If no source is of the field `anchor`.
    """
    first = {field_of(s): s for s in reversed(z.sources)}
    fields = [s for s in z.sources if first[field_of(s)] == s]
    if not anchor:
        return list(itertools.combinations(fields, 2))
    if anchor not in first:
        raise unknown("field to anchor to", anchor, first)
    return [(first[anchor], s) for s in fields if s != first[anchor]]


def view_pairs(z: Embeddings) -> list[tuple[str, str]]:
    """Every two views of the same field."""
    return [(a, b) for a, b in itertools.combinations(z.sources, 2) if field_of(a) == field_of(b)]


def two_fields(encoder: Encoder) -> Encoder:
    """The same encoder, if it has two fields to compare. Raises AmodalError if not."""
    if len(encoder.fields) < 2:
        raise AmodalError(
            f"this method compares fields, and there is only {', '.join(encoder.fields)}. Take a "
            "method that learns from one, such as simclr, mae, dino or data2vec, or give records "
            "with a second field."
        )
    return encoder


def share(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide terms of one kind by their number, so that what the loop adds up is their mean."""
    return {name: term / len(terms) for name, term in terms.items()}


class Towers(Method):
    """One vector for each source, then losses between vectors.

    Args:
        encoder: Embeds records.
        objective: Embeddings -> named losses.
        views: How values are augmented.
        heads: field -> a projector that only training needs, run on the whole batch.
        learned: A module whose parameters the objective uses (a temperature).
        labels: The labels that batches must bring along.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        views: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ("weak",),
        heads: Mapping[str, nn.Module] | None = None,
        learned: nn.Module | None = None,
        labels: tuple[str, ...] = (),
    ):
        super().__init__()
        self.encoder, self.objective, self.views, self.learned = encoder, objective, views, learned
        self.labels = labels
        self.heads = nn.ModuleDict(heads or {})

    def features(self, batch: Batch) -> Features:
        features: Embeddings = self.encoder(batch)
        return features

    def logit_scale(self) -> Scale | None:
        """The learned inverse temperature of cosines, if search can use it."""
        return self.learned if isinstance(self.learned, Scale) and not self.heads else None

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return self.objective(self.project(features))

    def project(self, features: Embeddings) -> Embeddings:
        """What the objective compares: the features, through the heads of training if any."""
        if not self.heads:
            return features
        columns = {
            s: Column(self.heads[field_of(s)](features[s].values), features[s].rows)
            for s in features
            if field_of(s) in self.heads
        }
        return Embeddings(columns, features.size)


def ragged(column: Column) -> Ragged:
    """The values of a column that has a list of tokens for each row."""
    return cast(Ragged, column.values)


def row_losses(loss_T: Tensor, hidden: Tokens) -> Column:
    """Add up the losses of hidden tokens row by row; `token_mean` ends it.

    Args:
        loss_T: One loss for each of `hidden`.
        hidden: T tokens.

    Returns:
        (N, 2): their sum and their number, of the rows that have any.
    """
    loss_T = loss_T.to(torch.promote_types(loss_T.dtype, torch.float32))
    both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
    total = both.new_zeros(hidden.size, 2).index_add(0, hidden.row, both)
    rows = hidden.rows()
    return Column(total[rows], rows)


def token_mean(column: Column) -> Tensor:
    """The mean loss of all hidden tokens of a batch, over ranks and micro-batches.

    Args:
        column: (N, 2) of `row_losses`.
    """
    # sums first, then one division: a mean of means would weigh a row's tokens by how many it has
    total, count = column.flat.sum(0)
    mean: Tensor = total / count.detach().clamp(min=1)
    return mean


class MaskedAutoencoder(Method):
    """The encoder sees the visible tokens only; a light decoder predicts the hidden ones (He et al.
    2022).

    Args:
        encoder: Embeds records.
        ratio: Share of tokens hidden.
        together: Draw the mask over all tokens of a row, so that a field is at times hidden whole
            and must be predicted from the others; else field by field.
        width: Of the decoder.
        depth: Blocks of the decoder.
        heads: Of its attention.
        views: How values are augmented.
        name: Of the method, for messages.
        whole_words: Hide words, not tokens, of what has words.

    Raises:
        AmodalError: For backbones whose tokens have seen each other, and a pooling with parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        ratio: float,
        together: bool,
        width: int,
        depth: int,
        heads: int,
        views: tuple[str, ...] = ("weak",),
        name: str = "mae",
        whole_words: bool = False,
    ):
        super().__init__()
        refuse_backbones(encoder, name)
        self.encoder, self.ratio, self.together, self.views = encoder, ratio, together, views
        self.whole_words = whole_words
        self.decoder = MaskDecoder(
            list(encoder.fields), encoder.width, width=width, depth=depth, heads=heads
        )
        self.predictors = nn.ModuleDict({f: m.predictor(width) for f, m in encoder.fields.items()})
        refuse_pool(encoder)

    def features(self, batch: Batch) -> Embeddings:
        """source -> (N, 2), the sum of losses of hidden tokens and their number (`row_losses`)."""
        tokens = self.encoder.tokenize(batch)
        keep = self.visible(tokens, batch)
        context = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        hidden = {s: t.keep(~keep[s]) for s, t in tokens.items()}
        decoded = self.decoder([context[s] for s in tokens], list(hidden.values()))
        columns = {}
        for (source, masked), predicted in zip(hidden.items(), decoded):
            field = field_of(source)
            modality, predictor = self.encoder.fields[field], self.predictors[field]
            target = take(modality.targets(batch[source].values), ~keep[source])
            columns[source] = row_losses(
                modality.token_loss(predictor(predicted.x), target), masked
            )
        return Embeddings(columns, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return share({f"reconstruct/{s}": token_mean(features[s]) for s in features})

    def visible(self, tokens: Mapping[str, Tokens], batch: Batch) -> dict[str, Tensor]:
        """Draw the mask.

        Args:
            tokens: source -> its T tokens.
            batch: That they are of.

        Returns:
            source -> (T,) bool, on the CPU: the tokens that the encoder sees.
        """
        # on the CPU, where the number of visible tokens is needed to cut them out
        bags, seeds = {s: t.skeleton() for s, t in tokens.items()}, host_copy(batch.seeds)
        hide = random_keep_units if self.whole_words else random_keep
        unit = {
            s: units(self.encoder, b, batch[s].values, whole_words=self.whole_words)
            for s, b in bags.items()
        }
        if not self.together:
            return {
                s: hide(b.row, hash_bits(seeds, name_code(s))[b.row], unit[s], self.ratio)
                for s, b in bags.items()
            }
        # number the units of a row through all its fields, so that one draw serves them all
        before = torch.stack([b.lengths() for b in bags.values()]).cumsum(0)
        order = torch.cat(
            [unit[s] + (before[i] - b.lengths())[b.row] for i, (s, b) in enumerate(bags.items())]
        )
        row = torch.cat([b.row for b in bags.values()])
        keep = hide(row, seeds[row], order, self.ratio)
        return dict(zip(bags, keep.split([len(b) for b in bags.values()])))


HIDES = "hiding some of them hides nothing"


def refuse_backbones(
    encoder: Encoder,
    method: str,
    why: str = HIDES,
    *,
    fields: Collection[str] | None = None,
    instead: str = "take a method that compares whole values, such as simclr, dino or clip",
) -> None:
    """Refuse fields that a backbone reads, pretrained or not: its tokens have seen each other.

    Args:
        encoder: Of the fields.
        method: Its name.
        why: What becomes wrong by that, after "so".
        fields: Those that the method cannot have a backbone for; None for all.
        instead: What else to do.

    Raises:
        AmodalError: For any such field.
    """
    read = {
        f: getattr(encoder.tokenizers[f], "name", "a backbone").partition("#{")[0]
        for f in (encoder.fields if fields is None else fields)
        if encoder.contextual(f)
    }
    if read:
        by = ", ".join(f"{f} by {name}" for f, name in read.items())
        timm = [name for name in read.values() if name.startswith("timm:vit_")]
        begin = f", begin with its weights: --init-from {timm[0]}" if timm else ""
        raise AmodalError(
            f"{method} cannot have a backbone for {', '.join(read)} (read {by}): tokens of a "
            f"backbone have seen each other, so {why}. Leave the backbone out (FIELD=tokens, if it "
            f"is of the run of --init-from){begin}, or {instead}."
        )


def refuse_pool(encoder: Encoder) -> None:
    """Raise AmodalError for a pooling with parameters, which no loss of tokens would train."""
    if encoder.pool_name in ("attention", "vector"):
        raise AmodalError(
            f'this method trains tokens and not their pooling, so pool="{encoder.pool_name}" would '
            'stay random; take "mean" or "cls"'
        )


class StudentTeacher(Method):
    """A student learns from a moving average of itself, the teacher.

    Args:
        encoder: The student.
        momentum: Of the teacher at the start.
        final_momentum: Of the teacher at the end, reached by half a cosine.
        views: How values are augmented.
    """

    def __init__(
        self, encoder: Encoder, *, momentum: float, final_momentum: float, views: tuple[str, ...]
    ):
        super().__init__()
        self.encoder, self.views = encoder, views
        self.momentum, self.final_momentum = momentum, final_momentum
        self.teacher = momentum_copy(encoder)

    def momentum_at(self, clock: Clock) -> float:
        """The momentum at a moment of training."""
        share = (1 + math.cos(math.pi * clock.progress)) / 2
        return self.final_momentum - (self.final_momentum - self.momentum) * share

    def on_step_end(self, clock: Clock) -> None:
        ema_update(self.teacher, self.encoder, self.momentum_at(clock))


class LinearStudentTeacher(StudentTeacher):
    """As `StudentTeacher`, with a momentum that goes from the first to the last along a line."""

    def momentum_at(self, clock: Clock) -> float:
        """The momentum at a moment of training."""
        return self.momentum + (self.final_momentum - self.momentum) * clock.progress


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def frozen_copy(module: ModuleT) -> ModuleT:
    """A copy whose parameters get no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_copy(module: ModuleT) -> ModuleT:
    """A copy for a teacher that `ema_update` moves. Batch statistics are of what it sees itself."""
    teacher = frozen_copy(module)
    set_follows(teacher)
    return teacher


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, momentum: float, *, buffers: bool = True
) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, in place.

    Running statistics of a backbone move as `average_statistics` says.

    Args:
        teacher: A module with the parameters of `student`, in the same order.
        student: What is being trained.
        momentum: From 0 (a copy) to 1 (no change).
        buffers: Copy buffers; else the teacher keeps its own, such as statistics of its BatchNorm.
    """
    pairs = list(zip(teacher.parameters(), student.parameters()))
    for sharded in (False, True):  # one fused call cannot mix sharded parameters with whole ones
        some = [(a.data, b.data) for a, b in pairs if hasattr(a, "device_mesh") is sharded]
        if some:
            torch._foreach_lerp_([a for a, _ in some], [b for _, b in some], 1 - momentum)
    if not buffers:
        return
    statistics = average_statistics(teacher, student, momentum)
    for a, b in zip(teacher.buffers(), student.buffers()):
        if id(a) not in statistics:
            a.copy_(b)

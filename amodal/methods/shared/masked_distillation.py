"""A student of class vectors and of masked tokens, with a momentum teacher: iBOT and DINOv2, 3."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Tokens, field_of, views_of
from amodal.core.column import joined
from amodal.masking.by_layout import partial_mask
from amodal.methods.contract import Clock, Columns, FeatureRecord
from amodal.methods.shared.prototypes import rising_temperature
from amodal.methods.shared.shapes import (
    StudentTeacher,
    ema_update,
    frozen_copy,
    ragged,
    refuse_backbones,
    share,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.nn.masked_tokens import masked_tokens
from amodal.nn.multi_vector import token_column
from amodal.nn.trunks import SourceTokens
from amodal.objectives.dino import view_cross_entropy
from amodal.objectives.masked_distillation import masked_distillation
from amodal.objectives.sinkhorn import sinkhorn

LARGE = 2  # views that the teacher encodes, and of which tokens are masked


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Numbers of the losses and the teacher.

    Attributes:
        masked: How often a large view has hidden tokens.
        ratio_low, ratio_high: Smallest and largest share of its tokens that is hidden then.
        temperature: Of the student's softmax.
        teacher_temperature, patch_temperature: Of the teacher's, for class vectors and for tokens.
        teacher_start: Both at the first step, if they rise.
        teacher_warmup: Share of the steps in which they rise.
        fixed_prototypes: Share of the steps in which prototypes stay as they are.
        momentum: Of the teacher at the start, rising to 1.
        patch_weight: Of the loss of tokens.

    Raises:
        AmodalError: For a share out of range.
    """

    masked: float
    ratio_low: float
    ratio_high: float
    temperature: float
    teacher_temperature: float
    patch_temperature: float
    teacher_start: float
    teacher_warmup: float
    fixed_prototypes: float
    momentum: float
    patch_weight: float

    def __post_init__(self) -> None:
        for name, whole in (
            ("masked", "the views"),
            ("ratio_low", "the tokens"),
            ("ratio_high", "the tokens"),
            ("teacher_warmup", "the steps"),
            ("fixed_prototypes", "the steps"),
        ):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise AmodalError(f"{name} is a share of {whole}, from 0 to 1, not {value}")
        if self.ratio_low > self.ratio_high:
            raise AmodalError(
                f"ratio_low is at most ratio_high, not {self.ratio_low} and {self.ratio_high}"
            )

    def rising(self, last: float, progress: float) -> float:
        """A temperature of the teacher, which ends at `last`, at a moment of training."""
        return rising_temperature(self.teacher_start, last, self.teacher_warmup, progress)


@dataclass(frozen=True, kw_only=True)
class DistilledFeatures(FeatureRecord):
    """What both networks make of a batch.

    Args:
        student: source -> (N, D), vectors of all views, the large ones partly masked.
        teacher: source -> (N, D), of the large views whole. No gradient, here and below.
        student_tokens: source -> lists (t, D), states of the hidden tokens of large views.
        teacher_tokens: source -> lists (t, D), of the same tokens, which the teacher sees.
        visible_tokens: source -> lists (t, D), the teacher's of all other tokens, for methods that
            need them; see `MaskedDistillation.visible`.
        row_losses: source -> (N,), terms of single rows, see `MaskedDistillation.row_losses`.
    """

    student: Columns
    teacher: Columns
    student_tokens: Columns
    teacher_tokens: Columns
    visible_tokens: Columns
    row_losses: Columns


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's logits of one field.

    Attributes:
        vectors_VNK: Of its large views.
        hidden_TK: Of hidden tokens of all of them.
        visible_tokens: Their other tokens (t, D), before the head; none unless a method needs them.
    """

    vectors_VNK: Tensor
    hidden_TK: Tensor
    visible_tokens: list[Tensor]


class MaskedDistillation(StudentTeacher):
    """Self-distillation of class vectors across views, and of masked tokens within one.

    Args:
        encoder: The student.
        heads: Field -> the head of class vectors.
        patch_heads: Field -> the head of tokens; None for the one of class vectors.
        views: How values are augmented, the large ones first.
        numbers: See `Distillation`.
        name: Of the method, for messages.
        crops: How many of the views, the first ones, the student reads; None for all.

    Raises:
        AmodalError: For backbones, whose tokens have seen each other.
    """

    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, PrototypeHead],
        patch_heads: Mapping[str, PrototypeHead] | None,
        *,
        views: tuple[str, ...],
        numbers: Distillation,
        name: str,
        crops: int | None = None,
    ):
        refuse_backbones(encoder, name)
        super().__init__(encoder, momentum=numbers.momentum, final_momentum=1.0, views=views)
        self.numbers, self.crops = numbers, len(views) if crops is None else crops
        self.heads, self.patch_heads = nn.ModuleDict(heads), nn.ModuleDict(patch_heads or {})
        self.teacher_heads = frozen_copy(self.heads)
        self.teacher_patch_heads = frozen_copy(self.patch_heads)
        self.layouts = {f: m.layout for f, m in encoder.fields.items()}
        self.mask = nn.ParameterDict(
            {f: nn.Parameter(torch.zeros(encoder.width)) for f in encoder.fields}
        )
        self.register_buffer("progress", torch.zeros(()))

    @abstractmethod
    def targets(self, field: str, logits: TeacherLogits, progress: float) -> tuple[Tensor, Tensor]:
        """Probabilities that the student learns of one field.

        Args:
            field: Its name.
            logits: Of the teacher.
            progress: The share of the run that is done.

        Returns:
            (V, N, K) of class vectors of the large views, and (T, K) of hidden tokens.
        """

    def further_terms(self, field: str, large: Sequence[Tensor]) -> dict[str, Tensor]:
        """Terms of one more kind of one field, by the student's vectors (N, D) of large views."""
        return {}

    def hide(self, tokens: Tokens, seeds_B: Tensor) -> Tensor:
        """(T,) bool, which tokens of a large view are hidden from the student."""
        some = self.numbers
        return partial_mask(
            self.layouts[field_of(tokens.names[0])],
            tokens,
            seeds_B,
            masked=some.masked,
            low=some.ratio_low,
            high=some.ratio_high,
        )

    def crops_of(self, field: str) -> list[str]:
        """The sources of a field that the student reads, the large ones first."""
        return views_of(field, len(self.views))[: self.crops]

    def encode_student(self, tokens: SourceTokens, large: Collection[str]) -> SourceTokens:
        """States of the student's tokens, of the large sources and of the others."""
        return self.encoder.encode(tokens)

    def row_losses(self, batch: Batch, states: SourceTokens) -> Columns:
        """Terms of the loss that are of single rows.

        Args:
            batch: With all views.
            states: Large source -> the student's states of all its tokens.

        Returns:
            Large source -> (N,).
        """
        return {}

    def class_loss(self, student: Sequence[Tensor], targets_VNK: Tensor) -> Tensor:
        """The loss of the student's logits (N, K) of all views, by targets of the large ones."""
        return view_cross_entropy(student, targets_VNK, temperature=self.numbers.temperature)

    def features(self, batch: Batch) -> DistilledFeatures:
        crops = [s for f in self.encoder.fields for s in self.crops_of(f)]
        large = [s for f in self.encoder.fields for s in self.crops_of(f)[:LARGE]]
        with torch.no_grad():
            whole = self.teacher.encode(self.teacher.tokenize(batch.only(*large)))
            teacher = self.teacher.pool(whole)
        content = self.encoder.patchify(batch.only(*crops))
        hidden = {s: self.hide(content[s], batch.seeds) for s in large}
        for s in large:
            content[s] = masked_tokens(content[s], hidden[s], self.mask[field_of(s)])
        placed = {s: self.encoder.add_positions(t) for s, t in content.items()}
        states = self.encode_student(placed, large)
        student = self.encoder.pool(states)
        states, whole = ({s: self.strip(some[s]) for s in large} for some in (states, whole))
        return DistilledFeatures(
            size=batch.size,
            student={s: student[s] for s in content},
            teacher={s: teacher[s] for s in large},
            student_tokens={s: token_column(states[s].keep(hidden[s])) for s in large},
            teacher_tokens={s: token_column(whole[s].keep(hidden[s])) for s in large},
            visible_tokens=self.visible(whole, hidden),
            row_losses=self.row_losses(batch, states),
        )

    def visible(self, whole: Mapping[str, Tokens], hidden: Mapping[str, Tensor]) -> Columns:
        """What the targets need of the teacher's tokens that are not hidden.

        Args:
            whole: Large source -> the teacher's states of all its tokens.
            hidden: Large source -> (T,) bool.
        """
        return {}

    def strip(self, tokens: Tokens) -> Tokens:
        """Tokens of one source without what its pooling added."""
        return field_pool(self.encoder, tokens.names[0]).strip(tokens)

    def losses(self, features: DistilledFeatures) -> dict[str, Tensor]:
        across: dict[str, Tensor] = {}
        within: dict[str, Tensor] = {}
        further: dict[str, Tensor] = {}
        progress = float(self.progress)
        fixed = progress < self.numbers.fixed_prototypes
        for f in self.encoder.fields:
            sources = self.crops_of(f)
            large = sources[:LARGE]
            head, patch_head = self.heads[f], self.patch_head(f)
            vectors = [features.student[s].flat for s in sources]
            student = [head(z, fixed=fixed) for z in vectors]
            tokens = torch.cat([features.student_tokens[s].flat for s in large])
            with torch.no_grad():
                teacher = self.teacher_logits(features, f, large)
                across_VNK, within_TK = self.targets(f, teacher, progress)
            temperature, rows = self.numbers.temperature, LARGE * len(vectors[0])
            across[f"cls/{f}"] = self.class_loss(student, across_VNK)
            within[f"patch/{f}"] = self.numbers.patch_weight * masked_distillation(
                patch_head(tokens, fixed=fixed),
                within_TK,
                joined([ragged(features.student_tokens[s]).lengths for s in large]),
                temperature=temperature,
                rows=rows,
            )
            further |= self.further_terms(f, vectors[:LARGE])
        return share(across) | share(within) | share(further)

    def patch_head(self, field: str, *, teacher: bool = False) -> nn.Module:
        """The head of tokens of a field."""
        heads, patch_heads = (
            (self.teacher_heads, self.teacher_patch_heads)
            if teacher
            else (self.heads, self.patch_heads)
        )
        return patch_heads[field] if field in patch_heads else heads[field]

    def teacher_logits(
        self, features: DistilledFeatures, field: str, large: Sequence[str]
    ) -> TeacherLogits:
        """See `TeacherLogits`."""
        head, patch_head = self.teacher_heads[field], self.patch_head(field, teacher=True)
        hidden = torch.cat([features.teacher_tokens[s].flat for s in large])
        return TeacherLogits(
            torch.stack([head(features.teacher[s].flat) for s in large]),
            patch_head(hidden),
            [features.visible_tokens[s].flat for s in large if s in features.visible_tokens],
        )

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        momentum = self.momentum_at(clock)
        ema_update(self.teacher_heads, self.heads, momentum)
        ema_update(self.teacher_patch_heads, self.patch_heads, momentum)
        self.progress.fill_(clock.progress)


def balanced_targets(
    logits: TeacherLogits, numbers: Distillation, progress: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Targets by Sinkhorn-Knopp: class vectors of both large views together, and hidden tokens.

    Args:
        logits: Of the teacher.
        numbers: Have its temperatures.
        progress: The share of the run that is done.
        iterations: Of Sinkhorn-Knopp.

    Returns:
        As of `MaskedDistillation.targets`.
    """
    across, within = (
        sinkhorn(scores, epsilon=numbers.rising(last, progress), iterations=iterations)
        for scores, last in (
            (logits.vectors_VNK.flatten(0, 1), numbers.teacher_temperature),
            (logits.hidden_TK, numbers.patch_temperature),
        )
    )
    return across.view_as(logits.vectors_VNK), within


def prototype_heads(
    encoder: Encoder, *, prototypes: int, hidden: int, bottleneck: int
) -> dict[str, PrototypeHead]:
    """Field -> a head of its own."""
    return {
        f: PrototypeHead(encoder.feature_width(f), prototypes, hidden=hidden, bottleneck=bottleneck)
        for f in encoder.fields
    }

"""data2vec: from a partly hidden input, predict what a slow teacher makes of the whole input, in
any field. Baevski et al., ICML 2022, arXiv:2202.03555. Targets: their 3.3; loss: eq. 2. Row 123 of
the catalogue."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from amodal.core import Batch, Column, Tokens, field_of
from amodal.masking.by_layout import layout_mask
from amodal.methods.contract import Clock, Features
from amodal.methods.shared.shapes import (
    StudentTeacher,
    follow,
    refuse_backbones,
    refuse_pool,
    row_losses,
    share,
    token_mean,
)
from amodal.nn.encoder import Encoder
from amodal.objectives.smooth_l1 import smooth_l1


def data2vec(
    encoder: Encoder,
    *,
    top: int = 3,
    beta: float = 2.0,
    image: float = 0.6,
    sequence: float = 0.49,
    span: int = 10,
    other: float = 0.15,
    momentum: float = 0.999,
    final_momentum: float = 0.9999,
) -> StudentTeacher:
    """top: blocks whose outputs the targets average (6 to 10 of 12 in the paper); beta: where
    smooth L1 turns linear; image, sequence, span, other: what is hidden, see
    `amodal.masking.by_layout`; momentum, final_momentum: of the teacher, at the start and at the
    end."""
    return Data2vec(
        encoder,
        top,
        beta,
        dict(image=image, sequence=sequence, span=span, other=other),
        momentum,
        final_momentum,
    )


class Data2vec(StudentTeacher):
    def __init__(self, encoder, top, beta, hide, momentum, final_momentum):
        super().__init__(encoder, momentum=momentum, final_momentum=final_momentum, views=("weak",))
        refuse_backbones(encoder)
        refuse_pool(encoder)
        self.top, self.beta, self.hide = top, beta, hide
        self.layouts = {f: m.layout for f, m in encoder.fields.items()}
        self.mask = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(encoder.width) * 0.02) for f in encoder.fields}
        )
        self.predictors = nn.ModuleDict(
            {f: nn.Linear(encoder.width, encoder.width) for f in encoder.fields}
        )

    def features(self, batch: Batch) -> Features:
        content = self.encoder.patchify(batch)
        hidden = {
            s: layout_mask(self.layouts[field_of(s)], bag, batch.seeds, **self.hide)
            for s, bag in content.items()
        }
        with torch.no_grad():
            whole = {s: self.teacher.add_positions(bag) for s, bag in content.items()}
            target = self.teacher.encode(whole, collect=self.targets)
        blanked = {
            s: self.encoder.add_positions(self.blank(bag, hidden[s])) for s, bag in content.items()
        }
        context = self.encoder.encode(blanked)
        columns = {s: self.regress(context[s], target[s], hidden[s]) for s in content}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return share({f"regress/{s}": token_mean(features[s]) for s in features})

    def blank(self, bag: Tokens, hidden_T: Tensor) -> Tokens:
        mask_D = self.mask[field_of(bag.names[0])].to(bag.x.dtype)
        return bag.with_x(torch.where(hidden_T.unsqueeze(1), mask_D, bag.x))

    def regress(self, student: Tokens, teacher: Tokens, hidden_T: Tensor) -> Column:
        strip = self.encoder.pools[field_of(student.names[0])].strip
        student, teacher = strip(student).keep(hidden_T), strip(teacher).keep(hidden_T)
        guess_TD = self.predictors[field_of(student.names[0])](student.x)
        return row_losses(smooth_l1(guess_TD.float(), teacher.x.float(), beta=self.beta), student)

    def targets(self, outputs: list[Tensor], tokens: Tokens) -> Tensor:
        """The mean of the top blocks' MLP outputs, each normalised: over time in a sequence of
        sound or measurements, over channels in an image, a text or a table."""
        in_time = torch.tensor(
            [self.layouts[field_of(n)] == "signal" for n in tokens.names],
            device=tokens.source.device,
        )
        over_time = in_time[tokens.source].unsqueeze(1)
        normal = [
            torch.where(over_time, over_row(x, tokens), layer_norm(x, x.shape[1:]))
            for x in outputs[-self.top :]
        ]
        return torch.stack(normal).mean(0)

    def momentum_at(self, clock: Clock) -> float:
        """In a straight line from the first to the last, as in the paper."""
        return self.momentum + (self.final_momentum - self.momentum) * clock.progress

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        # the teacher reads what the student's front end makes of the input: that part is shared,
        # not averaged
        for name in ("tokenizers", "field_token"):
            follow(getattr(self.teacher, name), getattr(self.encoder, name), 0.0)


def over_row(x_TD: Tensor, tokens: Tokens, eps: float = 1e-5) -> Tensor:
    """Each channel standardised over the tokens of one source of one row (instance norm)."""
    segment = tokens.row * len(tokens.names) + tokens.source
    segments = tokens.size * len(tokens.names)
    count = torch.bincount(segment, minlength=segments).clamp(min=1).unsqueeze(1)
    sums = [
        x_TD.new_zeros(segments, x_TD.shape[1]).index_add(0, segment, power)
        for power in (x_TD, x_TD.square())
    ]
    mean, square = (s / count for s in sums)
    return (x_TD - mean[segment]) * torch.rsqrt((square - mean.square()).clamp(min=0) + eps)[
        segment
    ]

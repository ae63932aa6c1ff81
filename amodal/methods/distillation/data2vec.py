"""data2vec: from a partly hidden input, predict a momentum teacher's states of the whole input, in
any field. Baevski et al., ICML 2022, arXiv:2202.03555. Targets: their 3.3; loss: eq. 2. Row 123 of
the catalogue.

Differs:

- encoder: transformers over patches, pieces of spectrograms and subwords, with fixed positions. The
  paper has a convolutional network over raw sound, relative positions for pictures (BEiT's, which
  are `--positions relative`) and BERT's order of norms for text. Backbones are refused: they have
  seen what is to be hidden.
- one run learns all fields of the data with one setting; the paper trains a model for each kind.
  Theirs are the top 8 blocks of 12 for speech, 10 for text and 6 for pictures (here 3: `top`), and
  a beta of 4 for text, 2 for pictures and a squared error for speech.
- masks: of text 15 % of the tokens, all replaced by the mask token; BERT leaves a tenth of them and
  exchanges another.
- teacher: its momentum rises over the whole run, theirs over 30,000 steps for speech and 100,000
  for text, and is .9998 for pictures. On a short run the teacher stays near its start.
- views: `weak`, of which theirs have crops of pictures and none else.
- recipe: the paper has one for each kind (Adam, a schedule of three stages or a cosine); there is
  none on the page, and the package's is taken.
- product: labels by `amodal adapt`. No command transcribes speech (CTC).
- open: raw sound through convolutions with masked frames and CTC, and the recipe of each kind.
  Waits for work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from amodal.core import Batch, Column, Embeddings, Tokens, field_of
from amodal.masking.by_layout import hider
from amodal.methods.contract import Clock
from amodal.methods.shared.shapes import (
    LinearStudentTeacher,
    ema_update,
    refuse_backbones,
    refuse_pool,
    row_losses,
    share,
    token_mean,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.masked_tokens import masked_tokens
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
) -> LinearStudentTeacher:
    """Build data2vec.

    Args:
        encoder: The student.
        top: Blocks whose outputs the targets average (6 to 10 of 12 in the paper).
        beta: Where smooth L1 turns linear.
        image: Share of an image that is masked, see `amodal.masking.by_layout`.
        sequence: Share of a sequence that is masked.
        span: Tokens of a masked span of a sequence.
        other: Share of any other field that is masked.
        momentum: Of the teacher at the start.
        final_momentum: Of the teacher at the end.
    """
    return Data2vec(
        encoder,
        top=top,
        beta=beta,
        hide=hider("data2vec", image=image, sequence=sequence, span=span, other=other),
        momentum=momentum,
        final_momentum=final_momentum,
    )


class Data2vec(LinearStudentTeacher):
    """A student that predicts the teacher's hidden states of masked tokens.

    Args:
        encoder: The student.
        top: Blocks whose outputs the targets average.
        beta: Where smooth L1 turns linear.
        hide: (layout, tokens, seeds) -> (T,) bool, True where a token is masked.
        momentum: Of the teacher at the start.
        final_momentum: Of the teacher at the end.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        top: int,
        beta: float,
        hide: Callable[[str, Tokens, Tensor], Tensor],
        momentum: float,
        final_momentum: float,
    ):
        super().__init__(encoder, momentum=momentum, final_momentum=final_momentum, views=("weak",))
        refuse_backbones(encoder, "data2vec")
        refuse_pool(encoder)
        self.top, self.beta, self.hide = top, beta, hide
        self.layouts = {f: m.layout for f, m in encoder.fields.items()}
        self.mask = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(encoder.width) * 0.02) for f in encoder.fields}
        )
        self.predictors = nn.ModuleDict(
            {f: nn.Linear(encoder.width, encoder.width) for f in encoder.fields}
        )

    def features(self, batch: Batch) -> Embeddings:
        """source -> (N, 2), the sum of losses of masked tokens and their number."""
        content = self.encoder.patchify(batch)
        hidden = {
            s: self.hide(self.layouts[field_of(s)], tokens, batch.seeds)
            for s, tokens in content.items()
        }
        with torch.no_grad():
            whole = {s: self.teacher.add_positions(tokens) for s, tokens in content.items()}
            target = self.teacher.encode(whole, collect=self.targets)
        masked = {
            s: self.encoder.add_positions(self.replace_hidden(tokens, hidden[s]))
            for s, tokens in content.items()
        }
        context = self.encoder.encode(masked)
        columns = {s: self.regress(context[s], target[s], hidden[s]) for s in content}
        return Embeddings(columns, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return share({f"regress/{s}": token_mean(features[s]) for s in features})

    def replace_hidden(self, tokens: Tokens, hidden_T: Tensor) -> Tokens:
        """The mask token in the place of hidden ones."""
        return masked_tokens(tokens, hidden_T, self.mask[field_of(tokens.names[0])])

    def regress(self, student: Tokens, teacher: Tokens, hidden_T: Tensor) -> Column:
        """The losses (N, 2) of hidden tokens."""
        strip = field_pool(self.encoder, student.names[0]).strip
        student, teacher = strip(student).keep(hidden_T), strip(teacher).keep(hidden_T)
        guess_TD = self.predictors[field_of(student.names[0])](student.x)
        # eq. 2
        return row_losses(smooth_l1(guess_TD, teacher.x, beta=self.beta), student)

    def targets(self, outputs: list[Tensor], tokens: Tokens) -> Tensor:
        """The mean of the top blocks' MLP outputs, each normalised.

        Normalised over time in a sequence of sound or measurements, over channels in an image, a
        text or a table.

        Args:
            outputs: Of each block (T, D).
            tokens: T tokens that they belong to.
        """
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

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        # The teacher has the student's tokenizers, shared and not averaged: the paper found that
        # cheaper and slightly more accurate (3.3).
        ema_update(self.teacher.tokenizers, self.encoder.tokenizers, 0.0)
        ema_update(self.teacher.field_token, self.encoder.field_token, 0.0)


def over_row(x_TD: Tensor, tokens: Tokens, eps: float = 1e-5) -> Tensor:
    """Standardise each channel over the tokens of one source of one row (instance norm).

    Args:
        x_TD: Values of T tokens.
        tokens: Know their rows and sources.
        eps: Added to the variance.
    """
    segment = tokens.row * len(tokens.names) + tokens.source
    segments = tokens.size * len(tokens.names)
    count = torch.bincount(segment, minlength=segments).clamp(min=1).unsqueeze(1)
    sums = [
        x_TD.new_zeros(segments, x_TD.shape[1]).index_add(0, segment, power)
        for power in (x_TD, x_TD.square())
    ]
    # variance as mean of squares less square of the mean; rounding may bring it below 0
    mean, square = (s / count for s in sums)
    return (x_TD - mean[segment]) * torch.rsqrt((square - mean.square()).clamp(min=0) + eps)[
        segment
    ]

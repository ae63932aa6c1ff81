"""iBOT: a student predicts its momentum teacher's prototypes of other crops, and of the tokens that
it does not see itself, for every field that can be cropped.

Zhou et al., ICLR 2022, arXiv:2111.07832: eq. 1-3 and algorithm 1. The teacher is a tokenizer that
learns along. Class vectors are compared across views as in DINO, hidden tokens within a view.

Differs: from the authors' program, for pictures of ImageNet:

- encoder: `--size` and the patches that the dataset says, with positions of sines; masks leave no
  room for a backbone. Theirs is ViT-S, B or L, or Swin. Class vectors are those of a class token,
  as theirs, unless `--pool` says otherwise.
- heads: `hidden`, `bottleneck` and `prototypes` are 2,048, 256 and 8,192 there. The direction of a
  prototype learns and its length is 1, as with their normed last layer (theirs learns for ViT-S).
  Without `shared_head` the two heads share nothing; in their program they share all but the last
  layer in the student, and all in the teacher.
- masks: half of the large views hide 10 to 50 % of their patches, as in their published runs (a
  ratio of 0 or .3 give or take .2). Blocks are those of `amodal.masking.block`. Signals hide spans,
  other fields random tokens.
- views: two large ones of 25-100 % and `local_views` of 5-25 %, of which they have 10, with their
  colours; other fields have `strong` and `local`.
- schedules: theirs of temperatures and of fixed prototypes are by the epoch, here by the step, as
  shares of the run: `teacher_warmup` (30 epochs there), `fixed_prototypes` (1 epoch).
- momentum: that of step k of K is taken at k, counted from 1; the program counts from 0.
- optimizer: their cosine ends at 1e-6, ours at a hundredth of the rate.
- product: the teacher there, the student here; an average of the weights (`--ema`) comes close.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from amodal.core import Recipe, Tokens
from amodal.core.host import on_host
from amodal.methods.contract import Clock, Columns
from amodal.methods.shared.masked_distillation import (
    Distillation,
    MaskedDistillation,
    TeacherLogits,
    prototype_heads,
)
from amodal.methods.shared.prototypes import zero_centers
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.nn.multi_vector import token_column
from amodal.objectives.dino import update_center

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-4,
    lr_scaling="linear/256",
    weight_decay=0.04,
    weight_decay_end=0.4,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=10.0,
    clip=3.0,
    drop_path=0.1,
    batch_size=1024,
    epochs=800.0,
)
"""Of ViT-S/16 on ImageNet, as their command has it."""


def ibot(
    encoder: Encoder,
    *,
    prototypes: int = 1024,
    local_views: int = 4,
    shared_head: bool = True,
    hidden: int = 256,
    bottleneck: int = 64,
    masked: float = 0.5,
    ratio_low: float = 0.1,
    ratio_high: float = 0.5,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    patch_temperature: float = 0.07,
    teacher_start: float = 0.04,
    teacher_warmup: float = 0.3,
    fixed_prototypes: float = 0.01,
    center_momentum: float = 0.9,
    momentum: float = 0.996,
    patch_weight: float = 1.0,
) -> Ibot:
    """Build iBOT.

    Args:
        encoder: The student.
        prototypes: Outputs of the heads (8,192 in the paper).
        local_views: Small crops beside the two large ones (10 in the paper).
        shared_head: One head for class vectors and tokens, which the paper found better.
        hidden: Width of the heads' two hidden layers (2,048 in the paper).
        bottleneck: Width of the unit vectors that prototypes are compared with (256 in the paper).
        masked: How often a large view has hidden tokens.
        ratio_low: Smallest share of its tokens that is hidden then.
        ratio_high: Largest share.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's for class vectors (0.07 in the paper's longer runs).
        patch_temperature: Of the teacher's for tokens.
        teacher_start: Both of the teacher's at the first step, if they rise.
        teacher_warmup: Share of the steps in which they rise (30 of 100 epochs, or of 800).
        fixed_prototypes: Share of the steps in which prototypes stay as they are (1 epoch there).
        center_momentum: Of the teacher's two centres.
        momentum: Of the teacher at the start, rising to 1.
        patch_weight: Of the loss of hidden tokens.
    """
    numbers = Distillation(
        masked=masked,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        patch_temperature=patch_temperature,
        teacher_start=teacher_start,
        teacher_warmup=teacher_warmup,
        fixed_prototypes=fixed_prototypes,
        momentum=momentum,
        patch_weight=patch_weight,
    )
    heads, patch_heads = (
        prototype_heads(encoder, prototypes=prototypes, hidden=hidden, bottleneck=bottleneck)
        for _ in range(2)
    )
    return Ibot(
        encoder,
        heads,
        None if shared_head else patch_heads,
        local_views=local_views,
        numbers=numbers,
        center_momentum=center_momentum,
    )


class Ibot(MaskedDistillation):
    """Self-distillation of class vectors and hidden tokens, with a centre for each.

    Args:
        encoder: The student.
        heads: Field -> the head of class vectors.
        patch_heads: Field -> the head of tokens; None for the one of class vectors.
        local_views: Small crops beside the two large ones.
        numbers: Of the losses and the teacher.
        center_momentum: Of the teacher's two centres.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: dict[str, PrototypeHead],
        patch_heads: dict[str, PrototypeHead] | None,
        *,
        local_views: int,
        numbers: Distillation,
        center_momentum: float,
    ):
        views = ("ibot", "ibot_solarized") + ("ibot_local",) * local_views
        super().__init__(encoder, heads, patch_heads, views=views, numbers=numbers, name="ibot")
        self.center_momentum = center_momentum
        self.centers, self.patch_centers = zero_centers(heads), zero_centers(heads)
        self._next_centers: dict[str, tuple[Tensor, Tensor]] = {}

    def visible(self, whole: Mapping[str, Tokens], hidden: Mapping[str, Tensor]) -> Columns:
        """All of them, for the centre."""
        seen = {s: on_host(torch.logical_not, mask) for s, mask in hidden.items()}
        return {s: token_column(tokens.keep(seen[s])) for s, tokens in whole.items()}

    def targets(self, field: str, logits: TeacherLogits, progress: float) -> tuple[Tensor, Tensor]:
        """Centred and sharpened, eq. 1 and 2."""
        numbers = self.numbers
        center, patch_center = self.centers[field], self.patch_centers[field]
        # the centre of tokens is of all of them, hidden or not
        head = self.patch_head(field, teacher=True)
        every = [logits.hidden_TK, *map(head, logits.visible_tokens)]
        # until the step ends, as losses may be computed more than once
        self._next_centers[field] = (
            update_center(center, logits.vectors_VNK, momentum=self.center_momentum),
            update_center(patch_center, every, momentum=self.center_momentum),
        )
        across = numbers.rising(numbers.teacher_temperature, progress)
        within = numbers.rising(numbers.patch_temperature, progress)
        return (
            ((logits.vectors_VNK - center) / across).softmax(-1),
            ((logits.hidden_TK - patch_center) / within).softmax(-1),
        )

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        for field, (center, patch_center) in self._next_centers.items():
            self.centers[field].data.copy_(center)
            self.patch_centers[field].data.copy_(patch_center)

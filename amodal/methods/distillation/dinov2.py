"""DINOv2: class vectors across crops and hidden tokens within one, balanced by Sinkhorn-Knopp, and
vectors that spread (KoLeo), for every field that can be cropped.

Oquab et al., TMLR 2024, arXiv:2304.07193, section 4. The losses are those of iBOT; the heads of
class vectors and of tokens share nothing, and no centre is carried along.

Differs: from the authors' configuration of ViT-L/14 on ImageNet-22k (vitl14):

- encoder: `--size` and the patches that the dataset says, with positions of sines; masks leave no
  room for a backbone. Theirs scales the outputs of layers (`layer_scale`, 1e-5) and has SwiGLU.
  Class vectors are those of a class token, as theirs, unless `--pool` says otherwise. `registers`
  came with a later paper (Darcet et al. 2024) and are of no part of the losses, as there.
- heads: `hidden`, `bottleneck` and `prototypes` are 2,048, 384 and 131,072 there. The direction of
  a prototype learns and its length is 1; theirs learns too.
- masks: each large view hides 10 to 50 % of its patches half of the time, by its row's seed. Theirs
  is half of a batch to the number, with ratios spread evenly over it. Blocks are those of
  `amodal.masking.block`. Signals hide spans, other fields random tokens.
- views: two large ones of 32-100 % and `local_views` of 5-32 %, of which they have 8, with their
  colours; other fields have `strong` and `local`.
- Sinkhorn and KoLeo see the whole batch; their KoLeo sees the rows of one GPU. Each process
  computes the losses of all rows, theirs those of its own: 131,072 prototypes for the hidden tokens
  of 3,072 rows do not fit a GPU here.
- schedules: theirs of the temperature and of fixed prototypes are by the epoch (of 1,250 steps),
  here by the step, as shares of the run: `teacher_warmup`, `fixed_prototypes`.
- momentum: that of step k of K is taken at k, counted from 1; the program counts from 0.
- drop path: the rate rises over the blocks here, and is the same in all of them there.
- optimizer: their cosine ends at 1e-6, ours at a hundredth of the rate; they clip the gradient of
  each network by itself.
- stages: a last one at a higher resolution (section 4), and distillation of smaller models from the
  largest, are runs of their own: `--init-from RUN --resolution 518`; the second there is not.
- product: the teacher there, the student here; an average of the weights (`--ema`) comes close.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.core import AmodalError, Recipe
from amodal.methods.shared.masked_distillation import (
    Distillation,
    MaskedDistillation,
    TeacherLogits,
    balanced_targets,
    prototype_heads,
)
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.objectives.koleo import koleo

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=2e-4,
    lr_scaling="sqrt/1024",
    lr_multipliers={"encoder.tokenizers.": 0.2},
    weight_decay=0.04,
    weight_decay_end=0.2,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=100_000,
    clip=3.0,
    drop_path=0.4,
    batch_size=3072,
    steps=625_000,
)
"""Of ViT-L/14 on ImageNet-22k, on 96 GPUs: 500 times 1,250 steps."""


def dinov2(
    encoder: Encoder,
    *,
    prototypes: int = 1024,
    local_views: int = 4,
    shared_head: bool = False,
    hidden: int = 256,
    bottleneck: int = 64,
    masked: float = 0.5,
    ratio_low: float = 0.1,
    ratio_high: float = 0.5,
    temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    teacher_start: float = 0.04,
    teacher_warmup: float = 0.06,
    fixed_prototypes: float = 0.002,
    iterations: int = 3,
    momentum: float = 0.994,
    patch_weight: float = 1.0,
    koleo_weight: float = 0.1,
    registers: int = 0,
    layer_scale: float = 0.0,
) -> DinoV2:
    """Build DINOv2.

    Args:
        encoder: The student.
        prototypes: Outputs of the heads (131,072 in the paper).
        local_views: Small crops beside the two large ones (8 in the paper).
        shared_head: One head for class vectors and tokens, as in iBOT.
        hidden: Width of the heads' two hidden layers (2,048 in the paper).
        bottleneck: Width of the unit vectors that prototypes are compared with (384 in the
            authors' configuration).
        masked: How often a large view has hidden tokens.
        ratio_low: Smallest share of its tokens that is hidden then.
        ratio_high: Largest share.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's assignment.
        teacher_start: The teacher's at the first step, if it rises.
        teacher_warmup: Share of the steps in which it rises (30 epochs of 500 there).
        fixed_prototypes: Share of the steps in which prototypes stay as they are (1 epoch there).
        iterations: Of Sinkhorn-Knopp.
        momentum: Of the teacher at the start, rising to 1.
        patch_weight: Of the loss of hidden tokens.
        koleo_weight: Of KoLeo, on each of the two large views.
        registers: Learned tokens beside the class token (4 in their later models).
        layer_scale: Where learned factors of what blocks add begin (1e-5 in the authors'
            configuration); 0 for none.
    """
    if registers:
        encoder.set_registers(registers)
    encoder.set_layer_scale(layer_scale)
    numbers = Distillation(
        masked=masked,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        patch_temperature=teacher_temperature,
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
    return DinoV2(
        encoder,
        heads,
        None if shared_head else patch_heads,
        local_views=local_views,
        numbers=numbers,
        iterations=iterations,
        koleo_weight=koleo_weight,
    )


class DinoV2(MaskedDistillation):
    """Self-distillation of class vectors and hidden tokens, with balanced targets, and KoLeo.

    Args:
        encoder: The student.
        heads: Field -> the head of class vectors.
        patch_heads: Field -> the head of tokens; None for the one of class vectors.
        local_views: Small crops beside the two large ones.
        numbers: Of the losses and the teacher.
        iterations: Of Sinkhorn-Knopp.
        koleo_weight: Of KoLeo.

    Raises:
        AmodalError: For no iteration.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: dict[str, PrototypeHead],
        patch_heads: dict[str, PrototypeHead] | None,
        *,
        local_views: int,
        numbers: Distillation,
        iterations: int,
        koleo_weight: float,
    ):
        if iterations < 1:
            raise AmodalError(f"iterations of Sinkhorn-Knopp are at least 1, not {iterations}")
        views = ("dinov2", "dinov2_solarized") + ("dinov2_local",) * local_views
        super().__init__(encoder, heads, patch_heads, views=views, numbers=numbers, name="dinov2")
        self.iterations, self.koleo_weight = iterations, koleo_weight

    def targets(self, field: str, logits: TeacherLogits, progress: float) -> tuple[Tensor, Tensor]:
        """Balanced over prototypes: the vectors of both views together, and all hidden tokens."""
        return balanced_targets(logits, self.numbers, progress, self.iterations)

    def further_terms(self, field: str, large: Sequence[Tensor]) -> dict[str, Tensor]:
        """KoLeo of each large view by itself: two views of a row are to be near each other."""
        spread = torch.stack([koleo(z_ND) for z_ND in large]).sum()
        return {f"koleo/{field}": self.koleo_weight * spread}

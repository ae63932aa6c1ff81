"""DINOv3: DINOv2's losses with schedules that stay constant, and Gram anchoring, which keeps the
similarities between patches as an earlier teacher had them.

Siméoni et al. 2025, arXiv:2508.10104, sections 3.2 and 4. In a long run vectors of whole pictures
go on improving while those of patches become worse. So in its last part the student's Gram matrices
of patches are drawn to those of a Gram teacher, a moving average of early in the run:

    L = w_D L_DINO + L_iBOT + w_DK L_DKoleo                        until `gram_start`
    L = w_D L_DINO + L_iBOT + w_DK L_DKoleo + w_Gram L_Gram        then, with
    L_Gram = || X_S X_S^T - X_G X_G^T ||_F^2, patch vectors of length 1 of one picture

High resolution: `--method.gram-scale 2` reads pictures at twice the side of the crops for the Gram
teacher. Adaptation to a larger resolution goes on from a run, anchored to it from the first step:

    amodal pretrain dinov3 --init-from RUN --resolution 512 --data D --method.gram-snapshot 0 \
        --method.gram-start 0 --method.gram-every 0 --method.gram-weight 1.5

Evidence: none at a size that was tried. Patches become worse in a long run of a large model there,
and whether they do in a small one has not been measured.

Differs: from the paper and its authors' configurations of ViT-7B/16 (facebookresearch/dinov3:
pretrain, gram_anchor), which were read and of whose code nothing is here:

- encoder: `--size` and the patches that the dataset says. Theirs is 4,096 wide with 40 blocks, 32
  heads and SwiGLU, scales what blocks add (`layer_scale`, 1e-5; none here unless asked for, since
  in short runs blocks would stay idle), and has no biases of keys.
- positions: `axial:rescale=2`, as theirs: coordinates from -1 to 1 in a crop, periods from 1 to
  100, and a box that the student's crops draw a scale for, evenly in its logarithm from 1/2 to 2.
  Each crop draws, by its row's seed; theirs once for all large and once for all small crops of a
  GPU. Shift and jitter are off, as theirs. Angles are in single precision.
- norms: small crops have a last norm of their own (`local_norm`). Theirs is for class and register
  tokens of small crops, and no loss reads the others.
- heads: `prototypes`, `hidden` and `bottleneck` are 262,144, 8,192 and 512 there, of patches
  98,304, 4,096 and 384. The direction of a prototype learns and its length is 1; theirs learns too.
- masks: each large view hides 10 to 50 % of its patches half of the time, by its row's seed. Theirs
  is half of a batch to the number, with ratios spread evenly over it. Blocks are those of
  `amodal.masking.block`. Signals hide spans, other fields random tokens.
- views: two large ones of 32-100 % and `local_views` of 5-32 %, of which they have 8, of 256 and
  112 pixels there, the small ones half as large as the large ones here; no mirror images. Other
  fields have `strong` and `local`.
- Sinkhorn sees the whole batch, KoLeo `koleo_group` rows; a GPU has 16 there.
- schedules: constant after warm-ups of 100,000 of 1,200,000 steps. The temperature's, the first and
  the last of Gram anchoring and those of fixed prototypes are by the step, as shares of the run.
- Gram anchoring: the first Gram teacher is of step 200,000 there, the loss begins after 1,000,000
  (`gram_snapshot`, `gram_start`) and the teacher of 10,000 steps later takes its place, up to 3
  times (`gram_every`, `gram_updates`). The mean over the entries of a matrix, as in their program;
  the paper writes a sum. The weights of the loss and of small crops (2 and 1/2) hold from one step
  to the next, and rise and fall in 1,000 steps there. Their rate is also lower from then on (3e-5,
  of 5e-5), which here a second run has.
- Gram teacher's pictures: the teacher's own with `gram_scale=1`, with their colours; theirs, at
  twice the side, are without colours, as here with 2. Then the field's resolution is the Gram
  teacher's, a crop has no more pixels of the file than it, and the other crops have half of it.
- optimizer: the rate of their program is 5e-5 * 4 * (batch / 1,024)^(1/2), 4e-4. They clip the
  gradient of each network by itself.
- adaptation: `--init-from` takes the encoder of a run; heads and norms of small crops begin anew.
- product: the teacher there, the student here; an average of the weights (`--ema`) comes close.
- from memory, not read side by side: the step of the first Gram teacher, and their colours.
- data: their balanced and retrieved pictures are chosen before training (`amodal curate` has the
  clustering), and a tenth of their batches are of ImageNet alone. Text: `dinotxt`.
- open: crops of mixed sizes in one run of adaptation (large ones of 512 and 768 pixels, small ones
  of 112 to 336), and distillation of many students by one pass of a frozen teacher. Waits for work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Recipe, field_of, views_of
from amodal.core.host import host_copy
from amodal.methods.contract import Clock, Columns
from amodal.methods.shared.masked_distillation import (
    LARGE,
    Distillation,
    DistilledFeatures,
    MaskedDistillation,
    TeacherLogits,
    balanced_targets,
    prototype_heads,
)
from amodal.methods.shared.shapes import ema_update, frozen_copy, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PrototypeHead
from amodal.nn.resized_maps import resized_maps
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import SourceTokens
from amodal.objectives.dino import view_cross_entropy
from amodal.objectives.gram_anchor import gram_anchor
from amodal.objectives.koleo import koleo

ENCODER = {"pool": "cls", "positions": "axial:rescale=2"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=2e-4,
    lr_scaling="sqrt/1024",
    lr_multipliers={"encoder.tokenizers.": 0.2},
    weight_decay=0.04,
    betas=(0.9, 0.99),
    schedule="constant",
    warmup_steps=100_000,
    clip=30.0,
    drop_path=0.4,
    layer_decay=0.98,
    batch_size=4096,
    steps=1_200_000,
    resolution=256,
)
"""Of ViT-7B/16, on 256 GPUs: a million steps, and 200,000 with Gram anchoring."""

HALF_VIEWS = ("dinov3_half", "dinov3_half_solarized")
GRAM_VIEWS = ("dinov3_gram", "dinov3_gram_solarized")
"""Of pictures: the large views of a run whose Gram teacher reads larger ones, and what it reads."""


def dinov3(
    encoder: Encoder,
    *,
    prototypes: int = 1024,
    patch_prototypes: int = 1024,
    local_views: int = 4,
    hidden: int = 256,
    patch_hidden: int = 256,
    bottleneck: int = 64,
    patch_bottleneck: int = 64,
    masked: float = 0.5,
    ratio_low: float = 0.1,
    ratio_high: float = 0.5,
    temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    teacher_start: float = 0.04,
    teacher_warmup: float = 0.08,
    fixed_prototypes: float = 0.004,
    iterations: int = 3,
    momentum: float = 0.994,
    cls_weight: float = 1.0,
    patch_weight: float = 1.0,
    koleo_weight: float = 0.1,
    koleo_group: int = 16,
    registers: int = 4,
    layer_scale: float = 0.0,
    local_norm: bool = True,
    gram_weight: float = 2.0,
    gram_snapshot: float = 0.17,
    gram_start: float = 0.83,
    gram_every: int = 10_000,
    gram_updates: int = 3,
    gram_momentum: float = 0.999,
    gram_local_weight: float = 0.5,
    gram_scale: int = 1,
    clamp_negative: bool = False,
) -> DinoV3:
    """Build DINOv3.

    Args:
        encoder: The student.
        prototypes: Outputs of the heads of class vectors (262,144 in the authors' configuration).
        patch_prototypes: Outputs of the heads of tokens (98,304 there).
        local_views: Small crops beside the two large ones (8 in the paper).
        hidden, patch_hidden: Width of the heads' two hidden layers (8,192 and 4,096 there).
        bottleneck, patch_bottleneck: Width of the unit vectors that prototypes are compared with
            (512 and 384 there).
        masked: How often a large view has hidden tokens.
        ratio_low: Smallest share of its tokens that is hidden then.
        ratio_high: Largest share.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's assignment.
        teacher_start: The teacher's at the first step, if it rises.
        teacher_warmup: Share of the steps in which it rises (100,000 of 1,200,000 there).
        fixed_prototypes: Share of the steps in which prototypes stay as they are (5,000 there).
        iterations: Of Sinkhorn-Knopp.
        momentum: Of the teacher.
        cls_weight: Of the loss of class vectors.
        patch_weight: Of the loss of hidden tokens.
        koleo_weight: Of KoLeo, on each of the two large views.
        koleo_group: Rows among which KoLeo looks for the nearest.
        registers: Learned tokens beside the class token; 0 for none.
        layer_scale: Where learned factors of what blocks add begin (1e-5 there); 0 for none.
        local_norm: Small crops end with a norm of their own.
        gram_weight: Of Gram anchoring; 0 for a run without it.
        gram_snapshot: Share of the steps after which the teacher becomes the Gram teacher; 0: it
            is the encoder that the run begins with.
        gram_start: Share of the steps after which Gram anchoring begins.
        gram_every: Steps from then on after which the teacher becomes the Gram teacher; 0: never.
        gram_updates: How often it does so at most.
        gram_momentum: Of the teacher from then on.
        gram_local_weight: Of small crops in the loss of class vectors from then on.
        gram_scale: 1; or 2, the Gram teacher reads pictures at twice the side of the other crops.
        clamp_negative: Negative similarities of patches count as 0 in Gram anchoring.
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
    gram = GramAnchoring(
        weight=gram_weight,
        snapshot=gram_snapshot,
        start=gram_start,
        every=gram_every,
        updates=gram_updates,
        momentum=gram_momentum,
        local_weight=gram_local_weight,
        scale=gram_scale,
        clamp_negative=clamp_negative,
    )
    return DinoV3(
        encoder,
        prototype_heads(encoder, prototypes=prototypes, hidden=hidden, bottleneck=bottleneck),
        prototype_heads(
            encoder, prototypes=patch_prototypes, hidden=patch_hidden, bottleneck=patch_bottleneck
        ),
        local_views=local_views,
        numbers=numbers,
        gram=gram,
        iterations=iterations,
        cls_weight=cls_weight,
        koleo_weight=koleo_weight,
        koleo_group=koleo_group,
        local_norm=local_norm,
    )


@dataclass(frozen=True, kw_only=True)
class GramAnchoring:
    """Numbers of Gram anchoring; see `dinov3`, whose options begin with `gram_`.

    Raises:
        AmodalError: For a number out of range.
    """

    weight: float
    snapshot: float
    start: float
    every: int
    updates: int
    momentum: float
    local_weight: float
    scale: int
    clamp_negative: bool

    def __post_init__(self) -> None:
        for name in ("snapshot", "start", "momentum"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise AmodalError(f"gram_{name} is a share, from 0 to 1, not {value}")
        for name in ("weight", "local_weight", "every", "updates"):
            value = getattr(self, name)
            if not value >= 0:
                raise AmodalError(f"gram_{name} is 0 or more, not {value}")
        if self.weight and self.snapshot > self.start:
            raise AmodalError(
                f"gram_snapshot is at most gram_start, so that there is a Gram teacher when its "
                f"loss begins, not {self.snapshot} and {self.start}"
            )
        if self.scale not in (1, 2):
            raise AmodalError(
                f"gram_scale is 1, the crops of the teacher, or 2, twice their side, not "
                f"{self.scale}"
            )

    def refresh_due(self, steps: int) -> bool:
        """Whether the Gram teacher is replaced after so many steps of its loss."""
        return bool(
            self.every and steps % self.every == 0 and 0 < steps // self.every <= self.updates
        )


class DinoV3(MaskedDistillation):
    """Self-distillation of class vectors and hidden tokens, with balanced targets, KoLeo in groups,
    and Gram anchoring at the end.

    Args:
        encoder: The student.
        heads: Field -> the head of class vectors.
        patch_heads: Field -> the head of tokens.
        local_views: Small crops beside the two large ones.
        numbers: Of the losses and the teacher.
        gram: Of Gram anchoring.
        iterations: Of Sinkhorn-Knopp.
        cls_weight, koleo_weight, koleo_group, local_norm: See `dinov3`.

    Raises:
        AmodalError: For bad numbers, trunks without a last norm, and Gram teachers of larger
            pictures without a field of pictures.
    """

    anchored: Tensor
    """Whether the Gram teacher has been taken from the teacher."""
    refining: Tensor
    """Whether Gram anchoring has begun."""
    refined: Tensor
    """Steps with Gram anchoring."""

    def __init__(
        self,
        encoder: Encoder,
        heads: dict[str, PrototypeHead],
        patch_heads: dict[str, PrototypeHead],
        *,
        local_views: int,
        numbers: Distillation,
        gram: GramAnchoring,
        iterations: int,
        cls_weight: float,
        koleo_weight: float,
        koleo_group: int,
        local_norm: bool,
    ):
        if iterations < 1:
            raise AmodalError(f"iterations of Sinkhorn-Knopp are at least 1, not {iterations}")
        if koleo_group < 2:
            raise AmodalError(f"koleo_group is 2 rows or more, not {koleo_group}")
        for name, weight in (
            ("cls_weight", cls_weight),
            ("patch_weight", numbers.patch_weight),
            ("koleo_weight", koleo_weight),
        ):
            if not weight >= 0:
                raise AmodalError(f"{name} is 0 or more, not {weight}")
        super().__init__(
            encoder,
            heads,
            patch_heads,
            views=views_at(gram.scale, local_views),
            numbers=numbers,
            name="dinov3",
            crops=LARGE + local_views,
        )
        larger = [f for f, m in encoder.fields.items() if GRAM_VIEWS[0] in m.views]
        if gram.scale > 1 and not larger:
            raise AmodalError(
                f"gram_scale {gram.scale} enlarges pictures, and there is no field of pictures "
                f"among {', '.join(encoder.fields)}: leave gram_scale out"
            )
        self.gram, self.iterations = gram, iterations
        self.cls_weight, self.koleo_weight = cls_weight, koleo_weight
        self.koleo_group = koleo_group
        self.local_norms = local_norms(encoder) if local_norm and local_views else nn.ModuleDict()
        self.gram_teacher = frozen_copy(encoder) if gram.weight else None
        begins = bool(gram.weight) and gram.start <= 0
        self.register_buffer("anchored", torch.tensor(gram.snapshot <= 0))
        self.register_buffer("refining", torch.tensor(begins))
        self.register_buffer("refined", torch.zeros((), dtype=torch.int64))

    def targets(self, field: str, logits: TeacherLogits, progress: float) -> tuple[Tensor, Tensor]:
        """Balanced over prototypes: the vectors of both views together, and all hidden tokens."""
        return balanced_targets(logits, self.numbers, progress, self.iterations)

    def encode_student(self, tokens: SourceTokens, large: Collection[str]) -> SourceTokens:
        """Small crops end with norms of their own."""
        if not self.local_norms:
            return super().encode_student(tokens, large)
        small = {s: t for s, t in tokens.items() if s not in large}
        return self.encoder.encode({s: tokens[s] for s in large}) | self.encoder.encode(
            small, norms=dict(self.local_norms.items())
        )

    def class_loss(self, student: Sequence[Tensor], targets_VNK: Tensor) -> Tensor:
        """Over all pairs of views, of which those with a small crop count less in the end."""
        whole = super().class_loss(student, targets_VNK)
        small = self.gram.local_weight if self.refining else 1.0
        if small != 1 and len(student) > LARGE:
            large = view_cross_entropy(
                student[:LARGE], targets_VNK, temperature=self.numbers.temperature
            )
            pairs = LARGE * (len(student) - 1)
            whole = small * whole + (1 - small) * large * (LARGE * (LARGE - 1) / pairs)
        return self.cls_weight * whole

    def further_terms(self, field: str, large: Sequence[Tensor]) -> dict[str, Tensor]:
        """KoLeo of each large view by itself, among few rows."""
        spread = torch.stack([koleo(z_ND, group=self.koleo_group) for z_ND in large]).sum()
        return {f"koleo/{field}": self.koleo_weight * spread}

    def row_losses(self, batch: Batch, states: SourceTokens) -> Columns:
        """L_Gram of each large view, of all its patches, hidden or not."""
        if self.gram_teacher is None or not self.refining:
            return {}
        shown = {s: self.gram_source(s) for s in states}
        with torch.no_grad():
            tokens = self.gram_teacher.tokenize(batch.only(*shown.values()))
            targets = {s: self.strip(t) for s, t in self.gram_teacher.encode(tokens).items()}
        columns = {}
        for s, patches in states.items():
            rows, lengths = patches.rows(), host_copy(patches.lengths())
            loss_N = gram_anchor(
                patches.x,
                resized_maps(targets[shown[s]], patches),
                lengths[lengths > 0],
                clamp_negative=self.gram.clamp_negative,
            )
            columns[s] = Column(loss_N, rows)
        return columns

    def gram_source(self, source: str) -> str:
        """What the Gram teacher reads in place of a large source: a larger picture, if there is."""
        field = field_of(source)
        if self.gram.scale == 1 or GRAM_VIEWS[0] not in self.encoder.fields[field].views:
            return source
        return views_of(field, len(self.views))[self.crops :][self.crops_of(field).index(source)]

    def losses(self, features: DistilledFeatures) -> dict[str, Tensor]:
        terms = super().losses(features)
        by_field: dict[str, list[Tensor]] = {}
        for s, column in features.row_losses.items():
            by_field.setdefault(field_of(s), []).append(column.flat)
        return terms | share(
            {
                # a batch without a row of the field adds 0
                f"gram/{f}": self.gram.weight * loss_N.sum() / max(len(loss_N), 1)
                for f, parts in by_field.items()
                for loss_N in (torch.cat(parts),)
            }
        )

    def momentum_at(self, clock: Clock) -> float:
        """Constant, and a higher one while patches are anchored."""
        return self.gram.momentum if self.refining else self.momentum

    def on_step_end(self, clock: Clock) -> None:
        super().on_step_end(clock)
        if self.gram_teacher is None:
            return
        was_refining = bool(self.refining)
        self.refined += int(was_refining)
        is_first = not self.anchored and clock.progress >= self.gram.snapshot
        if is_first or (was_refining and self.gram.refresh_due(int(self.refined))):
            ema_update(self.gram_teacher, self.teacher, 0.0)
            self.anchored.fill_(True)
        self.refining.fill_(clock.progress >= self.gram.start)


def views_at(scale: int, local_views: int) -> tuple[str, ...]:
    """The two large views, the small ones, and those of the Gram teacher if it has some."""
    if scale == 1:
        return ("dinov3", "dinov3_solarized", *("dinov3_local",) * local_views)
    return (*HALF_VIEWS, *("dinov3_quarter",) * local_views, *GRAM_VIEWS)


def local_norms(encoder: Encoder) -> nn.ModuleDict:
    """Key of each trunk -> another norm to end it with.

    Raises:
        AmodalError: For trunks that do not end with one.
    """
    norms: Mapping[str, nn.Module] = {
        key: nn.LayerNorm(encoder.width)
        for key, trunk in encoder.trunks.items()
        if isinstance(trunk, Transformer)
    }
    if without := encoder.trunks.keys() - norms.keys():
        raise AmodalError(
            f"the trunk of {', '.join(sorted(without))} has no norm at its end that small crops "
            'could have another one for: take mixer="attention", or local_norm False'
        )
    return nn.ModuleDict(norms)

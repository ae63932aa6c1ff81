"""MMRL++: MMRL with one map into each tower that blocks change a little, and tokens that go on from
block to block.

Guo and Gu, 2025, arXiv:2505.10088. Shared-residual representation aligner: R (W + A_i B_i)' + b_i
with A_i B_i = 0 at first; progressive representation composition: a later block reads beta of its
own tokens and 1 - beta of what the block before made of its; the projection of representation
features is the frozen one and a low-rank residual. All else is `mmrl`.

Differs:

- all that differs in `mmrl`; the recipe is the same.
- of the two factors of a residual the outer one begins as zeros and the inner one is drawn; in the
  authors' code it is the other way round.
"""

import copy
from collections.abc import Callable
from functools import partial

from torch import nn

from amodal.methods.adaptation.mmrl import PAPER_RECIPE as PAPER_RECIPE
from amodal.methods.shared.shared_space import NamedClasses, one_category
from amodal.nn.adapters.lora import lora
from amodal.nn.adapters.shared_space_tokens import space_tokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target


def mmrl_pp(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    text_field: str = "",
    count: int = 5,
    space: int = 512,
    first: int = 0,
    rank: int = 4,
    head_rank: int = 64,
    beta: float = 0.9,
    alpha: float = 0.7,
    weight: float = 1.0,
    scale: float = 100.0,
    template: str = "{}",
    width: int = 128,
    view: str = "weak",
) -> NamedClasses:
    """Build MMRL++.

    Args:
        encoder: Trained to compare its fields with texts, by `clip` or as a CLIP of transformers.
        label: What to predict, a label of the data that is a category.
        targets: Its classes (by default read from the data).
        text_field: The field that class names are read in (by default the first of text).
        count: Tokens of the space.
        space: Its width.
        first: The first block that they enter, from 1 (0: the paper's, 6 of 12).
        rank: Of the residuals of each block.
        head_rank: Of the residual of the representation projection.
        beta: Share of a block's own tokens (1: those of the block before are replaced, as in
            `mmrl`).
        alpha: Share of the class feature's loss, and of its probabilities.
        weight: Of the cosines to the frozen towers.
        scale: Of cosines as logits.
        template: A sentence with {} for the class.
        width: Of the space of vectors, if the encoder has aligned none (its maps into one then
            learn; those of a CLIP stay).
        view: How values are augmented, such as "plain" or "weak".
    """
    tokens = partial(
        space_tokens,
        count=count,
        space=space,
        first=first - 1 if first else None,
        rank=rank,
        beta=beta,
    )
    return NamedClasses(
        encoder,
        one_category(targets, "mmrl_pp"),
        text_field,
        tokens,
        residual(head_rank),
        alpha=alpha,
        weight=weight,
        scale=scale,
        template=template,
        width=width,
        view=view,
    )


def residual(rank: int) -> Callable[[nn.Module], nn.Module]:
    """Head -> a copy with frozen linear maps and trained differences of that rank."""
    return lambda head: lora(copy.deepcopy(head), rank, alpha=float(rank))

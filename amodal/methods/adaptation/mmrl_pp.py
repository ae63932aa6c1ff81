"""MMRL++: MMRL with one map into each tower that blocks change a little, and tokens that go on from
block to block. Guo and Gu, 2025, arXiv:2505.10088. Shared-residual representation aligner: R (W +
A_i B_i)' + b_i with B_i = 0 at first; progressive representation composition: a later block reads
beta of its own tokens and 1 - beta of what the block before made of its; the projection of
representation features is the frozen one and a low-rank residual. All else is `mmrl`, and so is
what differs from the papers. Row 198 of the catalogue."""

import copy
from functools import partial

from amodal.methods.shared.shared_space import NamedClasses, one_category
from amodal.nn.adapters.lora import lora
from amodal.nn.adapters.shared_space_tokens import space_tokens
from amodal.nn.encoder import Encoder


def mmrl_pp(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    words: str = "",
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
    """label: what is to be told, a label of the data that is a category; targets: its classes (read
    from the data unless given); words: the field that class names are read in (the first text
    field); count: tokens of the space; space: its width; first: the first block that they enter,
    from 1 (0: the paper's, 6 of 12); rank: of the residuals of each block; head_rank: of the
    representation projection's; beta: share of a block's own tokens (1: those before are replaced,
    as in `mmrl`); alpha: share of the class feature's loss, and of its probabilities; weight: of
    the cosines to the frozen towers; scale: of cosines as logits; template: a sentence with {} for
    the class; width: of the space of vectors, if the encoder has aligned none (its maps into one
    then learn); view: how values are augmented, such as "plain" or "weak"."""
    at = first - 1 if first else None
    tokens = partial(space_tokens, count=count, space=space, first=at, rank=rank, beta=beta)
    rest = {
        "alpha": alpha,
        "weight": weight,
        "scale": scale,
        "template": template,
        "width": width,
        "view": view,
    }
    return NamedClasses(
        encoder, one_category(targets, "mmrl_pp"), words, tokens, residual(head_rank), **rest
    )


def residual(rank: int):
    """Head -> a copy whose linear maps stay but for a difference of that rank."""
    return lambda head: lora(copy.deepcopy(head), rank, alpha=float(rank))

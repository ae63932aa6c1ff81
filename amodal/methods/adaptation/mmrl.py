"""MMRL: tokens of one learned space enter the upper blocks of all towers, and what towers say
without them is kept near. Guo and Gu, CVPR 2025, arXiv:2503.08497. Space tokens: their 3.2; loss:
3.3, cross-entropies of the class feature and of the representation feature, and cosines to what the
frozen towers give; decoupled inference: 3.4. Row 187 of the catalogue. The encoder must be trained
to compare its fields with texts beforehand (`clip`); `amodal adapt` goes on with such a run, from
few records of each class (`--shots`).

What differs. Any number of fields: each but the words is told by its own class and representation
features. Texts are read both ways and pooled, so there is no causal mask to extend. Tokens cannot
enter a pretrained backbone here. For unseen classes the encoder itself is what to ask: its vectors
are the class features (zero-shot in `amodal evaluate`). `predict` mixes in the others, for the
classes learnt."""

import copy
from functools import partial

from torch import nn

from amodal.methods.shared.shared_space import NamedClasses, one_category
from amodal.nn.adapters.shared_space_tokens import space_tokens
from amodal.nn.encoder import Encoder


def mmrl(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    words: str = "",
    count: int = 5,
    space: int = 512,
    first: int = 0,
    alpha: float = 0.7,
    weight: float = 1.0,
    scale: float = 100.0,
    template: str = "{}",
    width: int = 128,
    view: str = "weak",
) -> NamedClasses:
    """label: what is to be told, a label of the data that is a category; targets: its classes (read
    from the data unless given); words: the field that class names are read in (the first text
    field); count: tokens of the space; space: its width (0: no common space, each tower and block
    learns tokens of its own); first: the first block that they enter, from 1 (0: the paper's, 6 of
    12); alpha: share of the class feature's loss, and of its probabilities; weight: of the cosines
    to the frozen towers (0.01 to 7 in the paper, by data set); scale: of cosines as logits;
    template: a sentence with {} for the class; width: of the space of vectors, if the encoder has
    aligned none (its maps into one then learn); view: how values are augmented, such as "plain" or
    "weak"."""
    tokens = partial(space_tokens, count=count, space=space, first=first - 1 if first else None)
    rest = {
        "alpha": alpha,
        "weight": weight,
        "scale": scale,
        "template": template,
        "width": width,
        "view": view,
    }
    return NamedClasses(
        encoder, one_category(targets, "mmrl"), words, tokens, learning_copy, **rest
    )


def learning_copy(head: nn.Module) -> nn.Module:
    return copy.deepcopy(head).requires_grad_(True)

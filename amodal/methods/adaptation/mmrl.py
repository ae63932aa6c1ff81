"""MMRL: tokens of one learned space enter the upper blocks of all towers, and what towers say
without them is kept near. Guo and Gu, CVPR 2025, arXiv:2503.08497. Space tokens: their 3.2; loss:
3.3, cross-entropies of the class feature and of the representation feature, and cosines to what the
frozen towers give; decoupled inference: 3.4. Row 187 of the catalogue. The encoder must be trained
to compare its fields with texts beforehand (`clip`); `amodal adapt` goes on with such a run, from
few records of each class (`--shots`).

What differs. Any number of fields: each but the text field has its own class and representation
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
from amodal.nn.heads.supervised import Target


def mmrl(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    text_field: str = "",
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
    """Build MMRL.

    Args:
        encoder: Trained to compare its fields with texts.
        label: What to predict, a label of the data that is a category.
        targets: Its classes (by default read from the data).
        text_field: The field that class names are read in (by default the first of text).
        count: Tokens of the space.
        space: Its width (0: no common space; each tower and block learns its own tokens).
        first: The first block that they enter, from 1 (0: the paper's, 6 of 12).
        alpha: Share of the class feature's loss, and of its probabilities.
        weight: Of the cosines to the frozen towers (0.01 to 7 in the paper, by data set).
        scale: Of cosines as logits.
        template: A sentence with {} for the class.
        width: Of the space of vectors, if the encoder has aligned none (its maps into one then
            learn).
        view: How values are augmented, such as "plain" or "weak".
    """
    tokens = partial(space_tokens, count=count, space=space, first=first - 1 if first else None)
    return NamedClasses(
        encoder,
        one_category(targets, "mmrl"),
        text_field,
        tokens,
        learning_copy,
        alpha=alpha,
        weight=weight,
        scale=scale,
        template=template,
        width=width,
        view=view,
    )


def learning_copy(head: nn.Module) -> nn.Module:
    """A copy that is trained."""
    return copy.deepcopy(head).requires_grad_(True)

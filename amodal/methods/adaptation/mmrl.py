"""MMRL: tokens of one learned space enter the upper blocks of all towers, and what towers say
without them is kept near.

Guo and Gu, CVPR 2025, arXiv:2503.08497. Space tokens: their 3.2; loss: 3.3, cross-entropies of the
class feature and of the representation feature, and cosines to what the frozen towers give;
decoupled inference: 3.4.

The paper's encoder is a CLIP of ViT-B/16: `--backbone image=transformers:DIR@projected
text=transformers:DIR@projected --size base`. The tokens enter its layers behind the class token of
a picture and the start of a text, whose order stays causal, and the trained projection is a copy of
CLIP's. A run of `clip` goes on by `amodal adapt --tuning mmrl`, from few records of each class
(`--shots`), of any number of fields: each but the text field has its own class and representation
features. `amodal predict` uses both features, and for other classes (`--classes`, zero-shot, the
new half of `base_to_new`) the class feature alone.

Differs:

- in an encoder of this library class features are means over a record's own tokens, and texts are
  read both ways.
- projections are trained too where the encoder has no common space yet.
- `predict` averages the probabilities of both features, as in the paper; the authors' code averages
  their logits.
- weight 1, template "{}" and 512 dimensions unless set; the authors choose weights (0.01 to 7) and
  templates by data set, and 2,048 dimensions for EuroSAT.
- recipe: that of base and novel classes; ImageNet has 32 records a step, few shots 50 epochs. The
  authors' first epoch has a constant rate of 1e-5; here the rate rises. The cosine ends at 1 % of
  the rate, theirs at 0. They decay biases and tokens too.
- views: `weak`, in place of crops of at least half a picture and flips.
"""

import copy
from functools import partial

from torch import nn

from amodal.core import Recipe
from amodal.methods.shared.shared_space import NamedClasses, one_category
from amodal.nn.adapters.shared_space_tokens import space_tokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target

PAPER_RECIPE = Recipe(
    lr=1e-3,
    weight_decay=5e-4,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=1.0,
    clip=0.0,
    batch_size=4,
    epochs=10.0,
    resolution=224,
)


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
        encoder: Trained to compare its fields with texts, by `clip` or as a CLIP of transformers.
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
            learn; those of a CLIP stay).
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

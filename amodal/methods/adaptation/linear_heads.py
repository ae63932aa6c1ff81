"""Linear heads on frozen encoders, with dropout, from the closed form on.

The maps begin as regularised CCA (see `cca`) and learn by CLIP's loss (see `clip`; Zhai et al.,
CVPR 2022, arXiv:2111.07991, call two locked towers with heads "LL"). What keeps them from
learning the training pairs by heart is dropout of the features (Srivastava et al. 2014), around
their mean, drawn from the seeds of rows. With `hidden` there is a perceptron beside each map, which
begins as zero.

Differs: LiT's heads begin random and have no dropout; these begin where least squares ends, as a
few thousand pairs leave little room beyond it."""

from amodal.core import Recipe
from amodal.methods.shared.closed_form import LinearTowers
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale

RECIPE = Recipe(steps=100, lr=1e-3, batch_size=256, weight_decay=0.05)


def linear_heads(
    encoder: Encoder,
    *,
    dropout: float = 0.5,
    hidden: int = 0,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> LinearTowers:
    """Build linear heads.

    Args:
        encoder: Frozen. Its width is that of the maps.
        dropout: Of the features of frozen encoders.
        hidden: Of a perceptron beside each map; 0 for none.
        temperature: Of the softmax, where records are too few to find the best one.
        max_scale: Bound of its inverse.
    """
    scale = Scale(1 / temperature, most=max_scale)
    return LinearTowers(encoder, learns=True, dropout=dropout, hidden=hidden, scale=scale)

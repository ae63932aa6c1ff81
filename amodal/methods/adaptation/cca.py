"""Regularised CCA: frozen encoders are led into one space in closed form, by canonical directions.

Hotelling 1936; penalties of each field Vinod 1976; more than two fields Kettenring 1971; weights of
directions, a power of their correlation, Gong et al. 2014, IJCV, arXiv:1212.4522, section 3.3.
One pass over the training records. Penalties and the power are those by which a held-out fifth of
them find each other best, and then all of them are fitted. A record may lack fields: each
covariance is of the records that have both.

Differs: Gong et al. fix the penalty (1e-4) and the power (4), and approximate kernels by random
features, which are frozen encoders here. They compare by cosines too. Nothing learns after
the fit but the temperature of softmax, for those who read scores; so one step is enough."""

from amodal.core import Recipe
from amodal.methods.shared.closed_form import LinearTowers
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale

RECIPE = Recipe(steps=1, lr=1e-3, weight_decay=0.0)


def cca(encoder: Encoder, *, temperature: float = 0.07, max_scale: float = 100.0) -> LinearTowers:
    """Build regularised CCA.

    Args:
        encoder: Frozen. Its width is the most directions that there can be.
        temperature: Of the softmax, where records are too few to find the best one.
        max_scale: Bound of its inverse.
    """
    scale = Scale(1 / temperature, most=max_scale)
    return LinearTowers(encoder, learns=False, dropout=0.0, hidden=0, scale=scale)

"""BYOL: predict what a slowly moving average of oneself makes of another view, without negatives.

Grill et al., NeurIPS 2020, arXiv:2006.07733. Loss: their eq. 2, in both directions; target network:
eq. 1 with the schedule of section 3.3. With more than one field, each learns from its own two
views, and the loss is the mean over fields.

Views: a picture's are the paper's two (`blurred` and `solarized`), other fields' are `strong`.

Differs:

- encoder: a transformer over tokens; the paper has ResNets, whose BatchNorm would couple rows. A
  convolutional trunk can be had as a backbone, with its statistics fixed.
- start: both networks begin alike; the authors' code draws two (and saw no difference).
- optimizer: the cosine ends at 1 % of the rate, the paper's at 0.
- momentum: that of step k of K is taken at k, counted from 1; the authors count from 0.
- views: one linear map has brightness, contrast, saturation and hue in a fixed order (the paper
  shuffles them), blur follows the crop and comes before colours, and its width is the same share of
  a smaller picture. Brightness is a factor, as in the paper; the authors' code adds it.
- batch: 4,096 rows, or as many as there are; statistics are those of all of them, as in the paper.
- classifier: the authors' code trains one beside, on stopped features; here `amodal evaluate` does.
- saved is the online encoder, as in the paper.
"""

from amodal.core import Recipe
from amodal.methods.shared.momentum_target import MomentumTarget
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.negative_cosine import negative_cosine

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.2,
    lr_scaling="linear/256",
    weight_decay=1.5e-6,
    momentum=0.9,
    schedule="cosine",
    warmup_epochs=10.0,
    clip=0.0,
    batch_size=4096,
    epochs=1000.0,
)


def byol(
    encoder: Encoder, *, width: int = 256, hidden: int = 4096, momentum: float = 0.996
) -> MomentumTarget:
    """Build BYOL.

    Args:
        encoder: The online network.
        width: Of projections and predictions.
        hidden: Of the hidden layer of projectors and predictors.
        momentum: Of the target network at the start, rising to 1; .99 in the paper for 300 epochs.
    """

    def head(width_in: int) -> Projector:
        return Projector(width_in, width, hidden=hidden, last_bias=False)

    return MomentumTarget(
        encoder,
        projectors={f: head(encoder.feature_width(f)) for f in encoder.fields},
        predictors={f: head(width) for f in encoder.fields},
        loss=negative_cosine,
        name="byol",
        momentum=momentum,
        views=("blurred", "solarized"),
    )

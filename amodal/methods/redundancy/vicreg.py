"""VICReg: two views agree, every dimension varies over the batch, and no dimension repeats another.
Bardes, Ponce & LeCun, ICLR 2022, arXiv:2105.04906. Loss: their eq. 1-6.

Each field learns from two views of its own values.

Differs:
- The expander is 2,048 wide, theirs 8,192; set `width` and `hidden` to 8192 for theirs. Its first
  layers have no bias, which the BatchNorm behind them would subtract. Their last layer has none;
  ours has one, which no term of the loss sees.
- Weights are those of the authors' program, 25, 25 and 1: its squared distance is a mean over
  dimensions too, and its variance terms are averaged over views, where eq. 5-6 sum.
- Views are two of "strong", which are SimCLR's, unless the paper's recipe is taken: that has their
  two views of a picture, which are BYOL's ("blurred" and "solarized").
- The learning rate falls to a hundredth of its peak, theirs to a thousandth.
- The paper trains for 1,000 epochs, which is the recipe; their program's default is 100.
- Their encoder is a ResNet-50, to be had by `--backbone image=timm:resnet50 --train-backbones`.
  Ours is a transformer unless one says so.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.ranges import check_at_least
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.vicreg import vicreg as loss

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.2,
    lr_scaling="linear/256",
    momentum=0.9,
    weight_decay=1e-6,
    schedule="cosine",
    warmup_epochs=10,
    clip=0.0,
    batch_size=2048,
    epochs=1000,
    views={"image": ("blurred", "solarized")},
)
"""Of ImageNet, section 4.2 and the authors' program."""


def vicreg(
    encoder: Encoder,
    *,
    width: int = 2048,
    hidden: int = 2048,
    layers: int = 3,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Towers:
    """Build VICReg.

    Args:
        encoder: Of any fields.
        width: Of the expander's output.
        hidden: Of the expander's other layers.
        layers: Linear layers of the expander.
        invariance: Weight lambda of the squared distance of two views.
        variance: Weight mu of the hinge on standard deviations.
        covariance: Weight nu of the squared covariances.

    Raises:
        AmodalError: For an expander without layers or width.
    """
    check_at_least(1, width=width, hidden=hidden, layers=layers)
    heads = {
        f: Projector(encoder.width, width, hidden=hidden, layers=layers) for f in encoder.fields
    }

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"vicreg/{a}~{b}": loss(
                    *z.pair(a, b), invariance=invariance, variance=variance, covariance=covariance
                )
                for a, b in view_pairs(z)
            }
        )

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))

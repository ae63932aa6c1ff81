"""Hard negatives between fields: the more a negative resembles the anchor, the more it counts.

Choi, Beedu & Essa, 2023, arXiv:2309.01262. The loss is that of Robinson et al. (arXiv:2010.04592,
eq. 4) on pairs of motion sensors, here of any two fields of a record. Temperature, beta and prior
are within these papers' ranges. Row 49 of the catalogue.

Differs (there is no program of the authors to compare with):

- encoder: a transformer over patches of a series, from scratch. The paper has convolutions and a
  transformer for inertial sensors and a convolutional network over joints and time for skeletons;
  `--backbone imu=resnet1d --train-backbones` is the nearest kind, a skeleton's joints are channels.
- views: one `strong` view of each sensor: crops of time, noise, scaled and missing channels, as for
  all series. Rotations, permutations and the shear of skeletons are not there.
- recipe: the paper's is not released; that of the package is taken.
- weights of negatives: with their gradient, as in the program of Robinson et al., whose bound from
  below and mean over negatives are kept too.
- negatives: of both sensors; `within=False` takes those of the other sensor alone.
- product: activities are read by a linear probe or by `finetune`, from one sensor or from all that
  a record has; splits by subject or session are those of the data.
- open: the two encoders (convolutions with a transformer for inertial sensors, convolutions over
  joints and time for skeletons), rotations and shear of skeletons, and the recipe. Waits for work,
  and the configuration.
"""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.hard_negative import hard_negative_nce


def hardneg_har(
    encoder: Encoder,
    *,
    beta: float = 1.0,
    prior: float = 0.1,
    temperature: float = 0.5,
    width: int = 128,
    within: bool = True,
) -> Towers:
    """InfoNCE with debiased, reweighted negatives between every two fields.

    Args:
        encoder: Gets projection heads; needs two fields.
        beta: How much near negatives are stressed, 0 for not at all.
        prior: Assumed share of negatives that are of the anchor's class.
        temperature: Temperature of the softmax.
        width: Output width of the projection heads, which the loss alone uses.
        within: Negatives also come from the anchor's own field.
    """

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"hard/{a}~{b}": hard_negative_nce(
                    *z.pair(a, b), beta=beta, prior=prior, temperature=temperature, within=within
                )
                for a, b in field_pairs(z)
            }
        )

    return Towers(
        two_fields(encoder).align(width, hidden=encoder.width), objective, views=("strong",)
    )

"""AstroM3: every two fields of an object are contrasted, each pair at a temperature of its own.

Rizhko and Bloom, 2024, arXiv:2411.08842. Loss: their symmetric cross-entropy of each pair of
fields, averaged over the pairs. Row 39 of the catalogue. What the paper does with it afterwards:
`amodal.search` for similar objects, `amodal.diagnose.disagreement` for outliers.

Differs:
- Any fields, encoded by the library's encoders instead of an Informer, a convolutional network and
  a perceptron.
- A scale that has reached a bound still gets a gradient. Published clamping stops the gradient of a
  scale that is past its bound for good.
- The reference code leaves out the halves of the symmetric loss, a constant factor.
"""

import itertools

from torch import Tensor, nn

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce


def astrom3(
    encoder: Encoder,
    *,
    width: int = 512,
    temperature: float = 0.01,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Towers:
    """InfoNCE between every two fields, with one learned temperature a pair.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        temperature: Initial value of each learned softmax temperature.
        min_scale: Lower bound of the inverse temperature.
        max_scale: Upper bound of the inverse temperature.
    """
    pairs = itertools.combinations(two_fields(encoder).fields, 2)
    scales = nn.ModuleDict(
        {"~".join(pair): Scale(1 / temperature, least=min_scale, most=max_scale) for pair in pairs}
    )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        terms = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale_of(a, b)())
            for a, b in field_pairs(z)
        }
        return share(terms)

    def scale_of(a: str, b: str) -> nn.Module:
        # a batch may bring its fields in another order than the encoder
        return scales[f"{a}~{b}"] if f"{a}~{b}" in scales else scales[f"{b}~{a}"]

    return Towers(encoder.align(width), objective, learned=scales)

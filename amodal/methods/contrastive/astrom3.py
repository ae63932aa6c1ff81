"""AstroM3: each two fields of an object find each other, every pair at a temperature of its own.
Rizhko and Bloom, 2024, arXiv:2411.08842. Loss: their symmetric cross-entropy of each pair of
fields, averaged over the pairs. Row 39 of the catalogue. What the paper does with it afterwards:
`amodal.search` for look-alikes, `amodal.diagnose.disagreement` for outliers.

Differences: any fields, read by the library's encoders instead of an Informer, a convolutional
network and a perceptron; and a scale that has reached a bound still gets a gradient, where
clamping, as published, holds one that is past it for good. The reference code leaves out the halves
of the symmetric loss, a constant factor."""

import itertools

from torch import nn

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
    """width: of the common space; temperature: where the learned softmax temperature of each pair
    of fields starts; min_scale, max_scale: bounds of its inverse."""
    pairs = itertools.combinations(two_fields(encoder).fields, 2)
    scales = nn.ModuleDict(
        {"~".join(pair): Scale(1 / temperature, least=min_scale, most=max_scale) for pair in pairs}
    )

    def objective(z):
        found = {
            pair: info_nce(*z.pair(*pair), temperature=1 / scale_of(*pair)())
            for pair in field_pairs(z)
        }
        return share({f"info_nce/{a}~{b}": term for (a, b), term in found.items()})

    def scale_of(a, b):
        return scales[f"{a}~{b}"] if f"{a}~{b}" in scales else scales[f"{b}~{a}"]

    return Towers(encoder.align(width), objective, learned=scales)

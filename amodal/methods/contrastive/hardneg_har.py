"""Hard negatives between fields: recordings that look like the anchor's count the more, the more
they do. Choi, Beedu & Essa, 2023, arXiv:2309.01262. The loss is that of Robinson et al.
(arXiv:2010.04592, eq. 4) on pairs of motion sensors, here of any two fields of a record;
temperature, beta and prior are within these papers' ranges. Row 49 of the catalogue."""

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
    """beta: how much near negatives are stressed, 0 for not at all; prior: assumed share of
    negatives that are like the anchor; temperature: of the softmax; width: of the projection heads'
    output, which the loss alone uses; within: negatives also come from the anchor's own field."""
    loss = {"beta": beta, "prior": prior, "temperature": temperature, "within": within}

    def objective(z):
        return share(
            {f"hard/{a}~{b}": hard_negative_nce(*z.pair(a, b), **loss) for a, b in field_pairs(z)}
        )

    return Towers(
        two_fields(encoder).align(width, hidden=encoder.width), objective, views=("strong",)
    )

"""DeCUR: redundancy reduction that keeps common and field-unique dimensions apart.
Wang et al., ECCV 2024, arXiv:2309.05300. Loss: their eq. 2-5. Row 2 of the catalogue."""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.decur import decur as cross


def decur(
    encoder: Encoder, *, width: int = 2048, common: float = 0.875, off_diagonal: float = 5.1e-3
) -> Towers:
    """Build DeCUR.

    Args:
        encoder: Of any fields.
        width: Projector output D (8192 in the paper).
        common: Share of D on which two fields must agree (searched in the paper, 0.875 for radar
            and optical images).
        off_diagonal: Weight lambda of the redundancy terms.
    """
    heads = {f: Projector(encoder.width, width, layers=3) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        within = {
            f"within/{a}~{b}": barlow_twins(*z.pair(a, b), off_diagonal=off_diagonal)
            for a, b in view_pairs(z)
        }
        across: dict[str, Tensor] = {}
        for a, b in field_pairs(z):
            shared, unique = cross(*z.pair(a, b), common=common, off_diagonal=off_diagonal)
            across |= {f"common/{a}~{b}": shared, f"unique/{a}~{b}": unique}
        # two fields: L_1 + L_2 + (L_common + L_unique) / 2. Of n, each meets n - 1 others, whose
        # terms share the weight of one
        others = max(len(encoder.fields) - 1, 1)
        return within | {name: term / (2 * others) for name, term in across.items()}

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))

"""SLIP: language supervision and self-supervision train one encoder together.

Mu, Kirillov, Wagner and Xie, ECCV 2022, arXiv:2112.12750. Loss: their algorithm 1, CLIP on a weak
view of each value plus SimCLR on two strong views of everything that is not text. Row 103 of the
catalogue.
"""

from torch import Tensor, nn

from amodal.core import Batch, Embeddings, view_of
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent


def slip(
    encoder: Encoder,
    *,
    weight: float = 1.0,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    view_temperature: float = 0.1,
    hidden: int = 4096,
    projection: int = 256,
) -> Towers:
    """InfoNCE between every two fields, and NT-Xent between two views of each.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        weight: Weight of the views' loss (0 is CLIP at the same cost).
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature between fields.
        max_scale: Upper bound of its inverse.
        view_temperature: Temperature between views.
        hidden: Hidden width of the views' projector of three layers, which training alone uses.
        projection: Output width of that projector.
    """
    viewed = [f for f, m in encoder.fields.items() if not m.takes_prompts] or list(encoder.fields)
    scale = Scale(1 / temperature, most=max_scale)
    heads = nn.ModuleDict(
        {f: Projector(encoder.width, projection, hidden=hidden, layers=3) for f in viewed}
    )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        across = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
            for a, b in field_pairs(z)
        }
        within = {}
        for f in viewed:
            a, b = z.pair(f"{f}:2", f"{f}:3")
            within[f"nt_xent/{f}"] = weight * nt_xent(
                heads[f](a), heads[f](b), temperature=view_temperature
            )
        return share(across) | share(within)

    views = {f: ("weak", "strong", "strong") if f in viewed else ("weak",) for f in encoder.fields}
    learned = nn.ModuleDict({"scale": scale, "heads": heads})
    return Slip(two_fields(encoder).align(width), objective, views=views, learned=learned)


class Slip(Towers):
    """Towers whose first views are in the common space.

    The other views have the trunk's features, for the views' projector.
    """

    def features(self, batch: Batch) -> Embeddings:
        pooled = self.encoder.features(batch)
        aligned = self.encoder.project(pooled)
        return Embeddings(
            {s: (pooled if view_of(s) > 1 else aligned)[s] for s in aligned.sources}, batch.size
        )

"""SLIP: captions and augmented views teach one encoder at once. Mu, Kirillov, Wagner and Xie, ECCV
2022, arXiv:2112.12750. Loss: their algorithm 1, CLIP on a mild view of each value plus SimCLR on
two strong views of everything that is not text. Row 103 of the catalogue."""

from torch import nn

from amodal.core import Batch, view_of
from amodal.methods.contract import Features
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
    """weight: of the views' loss (0 is CLIP at the same cost); width: of the common space;
    temperature: where the learned softmax temperature between fields starts; max_scale: bound of
    its inverse; view_temperature: between views; hidden, projection: widths of the views' projector
    of three layers, which training alone uses."""
    twice = [f for f, m in encoder.fields.items() if not m.takes_prompts] or list(encoder.fields)
    scale = Scale(1 / temperature, most=max_scale)
    heads = nn.ModuleDict(
        {f: Projector(encoder.width, projection, hidden=hidden, layers=3) for f in twice}
    )

    def objective(z):
        across = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
            for a, b in field_pairs(z)
        }
        within = {}
        for f in twice:
            a, b = z.pair(f"{f}:2", f"{f}:3")
            within[f"nt_xent/{f}"] = weight * nt_xent(
                heads[f](a), heads[f](b), temperature=view_temperature
            )
        return share(across) | share(within)

    views = {f: ("weak", "strong", "strong") if f in twice else ("weak",) for f in encoder.fields}
    learned = nn.ModuleDict({"scale": scale, "heads": heads})
    return Slip(two_fields(encoder).align(width), objective, views=views, learned=learned)


class Slip(Towers):
    """Only the first view goes into the common space; the others keep the trunk's features, for the
    views' projector."""

    def features(self, batch: Batch) -> Features:
        seen = self.encoder.features(batch)
        aligned = self.encoder.project(seen)
        return Features(
            {s: (seen if view_of(s) > 1 else aligned)[s] for s in aligned.sources}, batch.size
        )

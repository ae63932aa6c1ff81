"""Action-aware learning: two views of an object belong together, and the pair of them tells which
action led from one to the other. Aubret, Teulière and Triesch, 2024, arXiv:2407.06704: the action
loss on top of SimCLR with views in time. The layout of the heads and the weight are ours. Row 150
of the catalogue."""

from dataclasses import replace

from torch import nn

from amodal.core import AmodalError, Batch, Embeddings, field_of, unknown
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import PairHead, Projector
from amodal.objectives.info_nce import info_nce, nt_xent


def aa_ssl(
    encoder: Encoder,
    *,
    action: str = "action",
    first: str = "",
    second: str = "",
    weight: float = 1.0,
    width: int = 128,
    temperature: float = 0.5,
    action_temperature: float = 0.1,
) -> Towers:
    """action: the field that says what was done; first, second: the fields before and after it,
    which one tower then reads (of every other field, and of all without them, there are two
    augmented views); weight: of the action loss; width: of the heads' outputs; temperature: of
    NT-Xent; action_temperature: of pairs against actions."""
    if bool(first) != bool(second):
        raise AmodalError(
            "aa_ssl needs both fields, before and after the action: give first and second, or neither"
        )
    for field in filter(None, (action, first, second)):
        if field not in encoder.fields:
            raise unknown(
                "field",
                field,
                encoder.fields,
                "aa_ssl: --method.action, .first and .second name fields.",
            )
    if second:
        encoder.drop(second)
    seen = [f for f in encoder.fields if f != action]
    views = {f: ("strong", "strong") for f in seen} | {f: ("weak",) for f in (first, second) if f}
    size = encoder.width
    heads = nn.ModuleDict({f: Projector(size, width, hidden=size) for f in seen})
    pairs = nn.ModuleDict({f: PairHead(size, width) for f in seen})
    acts = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, width))

    def objective(z: Embeddings):
        terms, told = {}, {}
        for a, b in view_pairs(z):
            f = field_of(a)
            terms[f"nt_xent/{f}"] = nt_xent(
                *(heads[f](v) for v in z.pair(a, b)), temperature=temperature
            )
            _, (before, after, done) = z.complete((a, b, action))
            told[f"action/{f}"] = info_nce(
                pairs[f](before, after), acts(done), temperature=action_temperature
            )
        return share(terms) | {name: weight * term for name, term in share(told).items()}

    return InTime(
        encoder,
        objective,
        (first, second),
        views,
        nn.ModuleDict({"z": heads, "h": pairs, "u": acts}),
    )


class InTime(Towers):
    """Reads the field after the action as the second view of the field before it."""

    def __init__(self, encoder, objective, fields, views, learned):
        super().__init__(encoder, objective, views=views, learned=learned)
        self.views_of = {fields[0]: f"{fields[0]}:1", fields[1]: f"{fields[0]}:2"}

    def features(self, batch: Batch) -> Features:
        return self.encoder.features(
            replace(batch, columns={self.views_of.get(s, s): c for s, c in batch.columns.items()})
        )

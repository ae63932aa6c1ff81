"""Action-aware learning: two views of an object belong together, and the pair of them tells which action led from one to the other.
Aubret, Teulière and Triesch, 2024, arXiv:2407.06704: the action loss on top of SimCLR with views in time. The layout of the heads
and the weight are ours. Row 150 of the catalogue."""

import torch
from torch import nn

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown
from amodal.methods._contract import Features
from amodal.methods.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads import Projector
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
    """action: the field that says what was done; first, second: the fields before and after it, which one tower then reads (of every
    other field, and of all without them, there are two augmented views); weight: of the action loss; width: of the heads' outputs;
    temperature: of NT-Xent; action_temperature: of pairs against actions."""
    if bool(first) != bool(second):
        raise AmodalError("aa_ssl needs both fields, before and after the action: give first and second, or neither")
    for field in filter(None, (action, first, second)):
        if field not in encoder.fields:
            raise unknown("field", field, encoder.fields, "aa_ssl: --method.action, .first and .second name fields.")
    if second:
        without(encoder, second)
    seen = [f for f in encoder.fields if f != action]
    views = {f: ("strong", "strong") for f in seen} | {f: ("weak",) for f in (first, second) if f}
    size = encoder.width
    heads = {f: Projector(size, width, hidden=size) for f in seen}
    pairs = nn.ModuleDict({f: Pairs(size, width) for f in seen})
    acts = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, width))

    def objective(z: Embeddings):
        terms, told = {}, {}
        for a, b in view_pairs(z):
            f = field_of(a)
            terms[f"nt_xent/{f}"] = nt_xent(*(heads[f](v) for v in z.pair(a, b)), temperature=temperature)
            _, (before, after, done) = z.complete((a, b, action))
            told[f"action/{f}"] = info_nce(pairs[f](before, after), acts(done), temperature=action_temperature)
        return share(terms) | {name: weight * term for name, term in share(told).items()}

    return InTime(
        encoder, objective, (first, second), views, nn.ModuleDict({"z": nn.ModuleDict(heads), "h": pairs, "u": acts})
    )


class Pairs(nn.Module):
    """What two views tell together, through a head of their own, so that what the action needs does not have to be invariant."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(width_in, width_in), nn.GELU())
        self.both = nn.Sequential(nn.Linear(2 * width_in, width_in), nn.GELU(), nn.Linear(width_in, width))

    def forward(self, before, after):
        return self.both(torch.cat([self.each(before), self.each(after)], 1))


class InTime(Towers):
    """Reads the field after the action as the second view of the field before it."""

    def __init__(self, encoder, objective, fields, views, learned):
        super().__init__(encoder, objective, views=views, learned=learned)
        self.views_of = {fields[0]: f"{fields[0]}:1", fields[1]: f"{fields[0]}:2"}

    def features(self, batch: Batch) -> Features:
        columns: dict[str, Column] = {self.views_of.get(s, s): c for s, c in batch.columns.items()}
        return self.encoder.features(Batch(batch.size, columns, batch.keys, batch.seeds))


def without(encoder: Encoder, field: str) -> None:
    """Take a field's tower out of the encoder."""
    for parts in (encoder.fields, encoder.tokenizers, encoder.field_token, encoder.trunks, encoder.pools):
        if field in parts:
            parts.pop(field)

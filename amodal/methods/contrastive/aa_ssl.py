"""Action-aware learning: two views of an object belong together, and the pair predicts the action.

Aubret, Teulière and Triesch, 2024, arXiv:2407.06704: the action loss on top of SimCLR with views in
time. The layout of the heads and the weight are ours. Row 150 of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, field_of, unknown
from amodal.methods.shared.shapes import Objective, Towers, share, view_pairs
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
    """SimCLR, and InfoNCE between pairs of views and the action that led from one to the other.

    Args:
        encoder: Trained in place; `second` is dropped from it.
        action: The field that holds the action.
        first: The field before the action. It and `second` are two views for one tower. Every
            other field, and all of them if this is empty, has two augmented views.
        second: The field after the action.
        weight: Weight of the action loss.
        width: Output width of the heads.
        temperature: Temperature of NT-Xent.
        action_temperature: Temperature of pairs against actions.

    Raises:
        AmodalError: If only one of `first` and `second` is set, or a field is unknown.
    """
    if bool(first) != bool(second):
        raise AmodalError(
            "aa_ssl needs both fields, before and after the action: set first and second, or "
            "neither"
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
    viewed = [f for f in encoder.fields if f != action]
    views = {f: ("strong", "strong") for f in viewed} | {f: ("weak",) for f in (first, second) if f}
    size = encoder.width
    projectors = nn.ModuleDict({f: Projector(size, width, hidden=size) for f in viewed})
    pair_heads = nn.ModuleDict({f: PairHead(size, width) for f in viewed})
    action_head = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, width))

    def objective(z: Embeddings) -> dict[str, Tensor]:
        invariance, actions = {}, {}
        for a, b in view_pairs(z):
            f = field_of(a)
            invariance[f"nt_xent/{f}"] = nt_xent(
                *(projectors[f](v) for v in z.pair(a, b)), temperature=temperature
            )
            _, (before, after, done) = z.complete((a, b, action))
            actions[f"action/{f}"] = info_nce(
                pair_heads[f](before, after), action_head(done), temperature=action_temperature
            )
        return share(invariance) | {name: weight * term for name, term in share(actions).items()}

    return TimeViews(
        encoder,
        objective,
        first=first,
        second=second,
        views=views,
        learned=nn.ModuleDict({"z": projectors, "h": pair_heads, "u": action_head}),
    )


class TimeViews(Towers):
    """Towers for which the field after the action is the second view of the field before it.

    Args:
        first: The field before the action, or "".
        second: The field after it, or "".
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        first: str,
        second: str,
        views: Mapping[str, tuple[str, ...]],
        learned: nn.Module,
    ):
        super().__init__(encoder, objective, views=views, learned=learned)
        self.source_names = {first: f"{first}:1", second: f"{first}:2"} if first else {}

    def features(self, batch: Batch) -> Embeddings:
        columns = {self.source_names.get(s, s): c for s, c in batch.columns.items()}
        return self.encoder.features(replace(batch, columns=columns))

"""Action-aware learning: two views of an object belong together, and the pair predicts the action.

Aubret, Teulière and Triesch, ECCV 2024, arXiv:2407.06704: the action loss on top of SimCLR with
views in time (AA-SimCLR). Row 150 of the catalogue.

Differs:

- inputs: any fields. An action is a field that the encoder reads, such as a table of turns; the
  authors give its numbers, standardised, to the perceptron as they are.
- encoders: transformers of the library by default; the authors' ResNet-18 can be had from scratch
  (`--backbone before=timm:resnet18@scratch after=timm:resnet18@scratch` for fields of these names),
  followed by a linear map to the width of the encoder.
- views: of `first` and `second`, `weak` of each. The authors also augment both as SimCLR does, with
  crops of 20 to 100 % (`--views before=strong after=strong`, which blurs too), and draw the pair of
  each record anew from its clip in every epoch; here pairs are written to the data.
- heads: biases before a BatchNorm, which would subtract them again, are left out.
- self-supervision: SimCLR's; the authors' program also has BYOL and VICReg.
- recipe: `PAPER_RECIPE`.
- product: categories of objects by `amodal evaluate`. How viewpoints of different objects are
  aligned has no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, Recipe, field_of, unknown
from amodal.methods.shared.shapes import Objective, Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import nt_xent

PAPER_RECIPE = Recipe(
    lr=5e-4,
    weight_decay=1e-6,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    batch_size=256,
    epochs=100.0,
)


def aa_ssl(
    encoder: Encoder,
    *,
    action: str = "action",
    first: str = "",
    second: str = "",
    weight: float = 1.0,
    width: int = 128,
    hidden: int = 256,
    pair_hidden: int = 1024,
    temperature: float = 0.1,
    action_temperature: float = 0.1,
) -> Towers:
    """SimCLR, and NT-Xent between pairs of views and the action that led from one to the other.

    Args:
        encoder: Trained in place; `second` is dropped from it.
        action: The field that holds the action.
        first: The field before the action. It and `second` are two views for one tower. Every
            other field, and all of them if this is empty, has two augmented views.
        second: The field after the action.
        weight: Weight of the action loss.
        width: Output width of the heads.
        hidden: Of the projectors of views and of actions.
        pair_hidden: Of the projector of pairs.
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
    projectors = nn.ModuleDict({f: Projector(size, width, hidden=hidden) for f in viewed})
    pair_heads = nn.ModuleDict({f: Projector(2 * size, width, hidden=pair_hidden) for f in viewed})
    action_head = Projector(size, width, hidden=hidden, last_norm=True)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        invariance, actions = {}, {}
        for a, b in view_pairs(z):
            f = field_of(a)
            invariance[f"nt_xent/{f}"] = nt_xent(
                *(projectors[f](v) for v in z.pair(a, b)), temperature=temperature
            )
            _, (before, after, done) = z.complete((a, b, action))
            pair = pair_heads[f](torch.cat([before, after], 1))
            actions[f"action/{f}"] = nt_xent(
                action_head(done), pair, temperature=action_temperature
            )
        return share(invariance) | {name: weight * term for name, term in share(actions).items()}

    return TimeViews(
        encoder,
        objective,
        first=first,
        second=second,
        views=views,
        learned=nn.ModuleDict({"z": projectors, "pair": pair_heads, "action": action_head}),
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

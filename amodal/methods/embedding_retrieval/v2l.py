"""V2L: two encoders side by side, one that learns how things look and one that learns what they are
called, make one vector. Wang, Sun, Yang and Yang, 2022, arXiv:2207.12994. The vision encoder learns
coarse categories by a softmax with a margin (CosFace, arXiv:1801.09414), then tells every record
from all others by two views of it; the other learns CLIP's loss between the fields of a record.
Both are pooled by GeM; unit vectors are put end to end. Row 129 of the catalogue. More models,
weighted: `amodal.search.ensemble`.

Differences: any fields, and both encoders read all of them, so that titles can be searched by too
(the paper keeps pictures alone); one of each kind, trained in one run, where theirs are some
twenty; NT-Xent for telling records apart and the numbers of the losses are ours, as the report and
its repository leave them out; no normalised neck, no triplets, no averaging over flips and sizes at
test time."""

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, field_of, view_of
from amodal.core.column import both
from amodal.methods.contract import Features, Method, StagedMethod
from amodal.methods.shared.shapes import field_pairs, share, two_fields, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.margin_softmax import margin_softmax

ENCODER = {"pool": "gem"}


def v2l(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    coarse: float = 0.5,
    margin: float = 0.35,
    sharpness: float = 30.0,
    view_temperature: float = 0.1,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Method:
    """label: of the data, a coarse category; without it there is no coarse stage; classes: how
    many; coarse: share of the steps in which it is learnt (1: all); margin, sharpness: of the
    softmax over categories; view_temperature: between views; width: of each encoder's vector;
    temperature: where the learned softmax temperature between fields starts; max_scale: bound of
    its inverse."""
    if not 0 < coarse <= 1 or (label and classes < 2):
        raise AmodalError(
            f"v2l needs coarse above 0 and up to 1, and two classes of {label!r}, not {coarse} and {classes}"
        )
    whole = Ensemble.of(two_fields(encoder).align(width), 2)
    method = V2l(whole, Scale(1 / temperature, most=max_scale), classes if label else 0)
    method.labels, method.margin = (label,) if label else (), {"scale": sharpness, "margin": margin}
    method.heat, method.stages = view_temperature, (coarse, 1.0) if label and coarse < 1 else (1.0,)
    method.all_coarse = bool(label) and coarse == 1
    method.on_stage_start(0)
    return method


class V2l(StagedMethod):
    """Features: `looks/SOURCE` of the encoder for looks, `named/SOURCE` of that for names, and the
    label."""

    views, min_batch_size = ("weak", "strong"), 2

    def __init__(self, encoder: Ensemble, scale: Scale, classes: int):
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.prototypes = (
            nn.Parameter(torch.randn(classes, encoder.first.heads_width)) if classes else None
        )

    def on_stage_start(self, stage: int) -> None:
        self.coarse = self.all_coarse or (len(self.stages) > 1 and stage == 0)
        if self.prototypes is not None:
            self.prototypes.requires_grad_(self.coarse)

    def features(self, batch: Batch) -> Features:
        first = batch.only(*(s for s in batch.sources if view_of(s) <= 1))
        looks, named = self.encoder.members
        columns = {}
        for kind, part, seen in (
            ("looks", looks, first if self.coarse else batch),
            ("named", named, first),
        ):
            z = part(seen)
            columns |= {f"{kind}/{s}": z[s] for s in z.sources}
        return Features(
            columns | ({"label": batch.labels[self.labels[0]]} if self.coarse else {}), batch.size
        )

    def losses(self, features: Features) -> dict[str, Tensor]:
        looks, named = (
            Embeddings(
                {s.split("/")[1]: features[s] for s in features if s.startswith(kind)},
                features.size,
            )
            for kind in ("looks/", "named/")
        )
        across = {
            f"info_nce/{a}~{b}": info_nce(*named.pair(a, b), temperature=1 / self.scale())
            for a, b in field_pairs(named)
        }
        if not self.coarse:
            pairs = view_pairs(looks)
            within = {
                f"nt_xent/{field_of(a)}": nt_xent(*looks.pair(a, b), temperature=self.heat)
                for a, b in pairs
            }
            return share(across) | share(within)
        told = {s: both(looks[s], features["label"]) for s in looks}
        within = {
            s: margin_softmax(z.values, self.prototypes, y.values, **self.margin)
            for s, (z, y) in told.items()
        }
        return share(across) | share({f"margin/{field_of(s)}": term for s, term in within.items()})

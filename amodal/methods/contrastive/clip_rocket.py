"""CLIPRocket: CLIP with a strong recipe, and the non-contrastive losses between fields that it was
measured against. Fini et al., TMLR 2023, arXiv:2305.08675. A mild ("global") view of each value has
CLIP's loss; strong ("local") views of all fields have InfoNCE between every two of them, on
projectors and a temperature of their own, with smoothed labels (their CL2L). On top, if asked for,
BarLIP (Barlow Twins), SiamLIP and ByoLIP (predict the other field's embedding; the latter that of a
slow copy), or SwALIP (balanced soft targets). Text is best edited by words: `strong = "words"` in
its field. Row 87 of the catalogue."""

import itertools

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, field_of, unknown, view_of
from amodal.methods.contract import Clock, Features
from amodal.methods.shared.shapes import Towers, ema_update, frozen_copy, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.info_nce import info_nce
from amodal.objectives.negative_cosine import negative_cosine
from amodal.objectives.smoothed_info_nce import smoothed_info_nce
from amodal.objectives.swalip import swalip

WEIGHTS = {"none": 0.0, "barlip": 0.025, "siamlip": 1.0, "byolip": 1.0, "swalip": 0.2}


def clip_rocket(
    encoder: Encoder,
    *,
    add: str = "none",
    local_views: int = 2,
    smoothing: float = 0.1,
    width: int = 256,
    hidden: int = 4096,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    added_width: int = 128,
    added_hidden: int = 2048,
    momentum: float = 0.99,
) -> Towers:
    """add: none, barlip, siamlip, byolip or swalip; local_views: strong views of each value (0 is
    CLIP's naive recipe); smoothing: of the local views' labels (none with swalip, as in the paper);
    width: of the common space and of the local projectors; hidden: of the latter, of three layers;
    temperature: where both learned temperatures start; max_scale: bound of their inverse;
    added_width, added_hidden: of the added loss's projectors (8192 and 3000 for barlip in the
    paper); momentum: of byolip's copy."""
    if add not in WEIGHTS:
        raise unknown("loss to add", add, WEIGHTS)
    siamese = add in ("siamlip", "byolip")
    shape = {"hidden": added_hidden, "layers": 2 if siamese else 3, "last_norm": siamese}
    fields = list(encoder.fields)
    local = {
        f: Projector(encoder.width, width, hidden=hidden, layers=3) for f in fields if local_views
    }
    added = {
        f: Projector(encoder.width, added_width, **shape)
        for f in fields
        if siamese or add == "barlip"
    }
    predict = {
        f: Projector(added_width, added_width, hidden=added_hidden) for f in fields if siamese
    }
    scales = [Scale(1 / temperature, most=max_scale) for _ in range(2 if local_views else 1)]
    method = Rocket(
        two_fields(encoder).align(width), None, views=("weak",) + ("strong",) * local_views
    )
    method.local, method.added, method.predict = (
        nn.ModuleDict(local),
        nn.ModuleDict(added),
        nn.ModuleDict(predict),
    )
    method.scales, method.add, method.n, method.momentum = (
        nn.ModuleList(scales),
        add,
        local_views,
        momentum,
    )
    method.smoothing = 0.0 if add == "swalip" else smoothing
    method.slow = frozen_copy(nn.ModuleList([encoder, method.added])) if add == "byolip" else None
    return method


class Rocket(Towers):
    """`global/FIELD` is in the common space; sources themselves are the trunk's features, for
    projectors that see whole batches."""

    def features(self, batch: Batch) -> Features:
        seen = self.encoder.features(batch)
        aligned = self.encoder.project(seen)
        columns = {s: seen[s] for s in seen.sources}
        columns |= {f"global/{field_of(s)}": aligned[s] for s in aligned.sources if view_of(s) <= 1}
        if self.slow is not None:
            with torch.no_grad():
                taught = self.slow[0].features(batch)
            columns |= {f"slow/{s}": taught[s] for s in taught.sources}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        own = [s for s in features.sources if "/" not in s]
        h = through(self.local, features, [s for s in own if view_of(s) > 1])
        v = through(self.added, features, own)
        p = through(self.predict, v, list(v))
        with torch.no_grad():
            target = v if self.slow is None else through(self.slow[1], features, own, "slow/")
        pairs, terms = list(itertools.combinations(self.encoder.fields, 2)), {}
        places = list(itertools.product(range(self.n), repeat=2))
        for a, b in pairs:
            first = features.pair(f"global/{a}", f"global/{b}")
            local = [(f"{a}:{i + 2}", f"{b}:{j + 2}") for i, j in places]
            terms[f"global/{a}~{b}"] = info_nce(*first, temperature=1 / self.scales[0]()) / (
                1 + self.n
            )
            if local:
                how = {"temperature": 1 / self.scales[1](), "smoothing": self.smoothing}
                terms[f"local/{a}~{b}"] = (
                    mean(smoothed_info_nce(*h.pair(*s), **how) for s in local)
                    * self.n
                    / (1 + self.n)
                )
            every = [(f"{a}:1", f"{b}:1") if local else (a, b), *local]
            if self.add == "barlip":
                extra = mean(barlow_twins(*v.pair(*s), off_diagonal=5e-3) for s in every)
            elif self.add == "swalip":
                views = [h.pair(*s) for s in local] or [first]
                swapped = [
                    views[(i + 1) % self.n * self.n + (j + 1) % self.n] for i, j in places
                ] or views
                extra = mean(
                    swalip(*x, *y, temperature=1 / self.scales[-1]())
                    for x, y in zip(views, swapped)
                )
            elif self.predict:
                ways = [way for s in every for way in (s, s[::-1])]
                seen = [
                    Embeddings({"p": p[x], "v": target[y]}, features.size).pair("p", "v")
                    for x, y in ways
                ]
                extra = mean(negative_cosine(*pair) for pair in seen)
            if self.add != "none":
                terms[f"{self.add}/{a}~{b}"] = WEIGHTS[self.add] * extra
        return {name: term / len(pairs) for name, term in terms.items()}

    def on_step_end(self, clock: Clock) -> None:
        if self.slow is not None:
            ema_update(self.slow, nn.ModuleList([self.encoder, self.added]), self.momentum)


def through(
    heads: nn.ModuleDict, z: Embeddings, sources: list[str], prefix: str = ""
) -> Embeddings:
    columns = {s: z[prefix + s] for s in sources if field_of(s) in heads}
    return Embeddings(
        {s: Column(heads[field_of(s)](c.values), c.rows) for s, c in columns.items()}, z.size
    )


def mean(losses) -> Tensor:
    return torch.stack(list(losses)).mean()

"""CLIPRocket: CLIP with a strong recipe, and the non-contrastive losses that it was compared with.

Fini et al., TMLR 2023, arXiv:2305.08675. A weak ("global") view of each value has CLIP's loss.
Strong ("local") views of all fields have InfoNCE between every two of them, on projectors and a
temperature of their own, with smoothed labels (their CL2L). One more loss can be added:

- BarLIP: Barlow Twins.
- SiamLIP and ByoLIP: predict the other field's embedding; ByoLIP takes it from an EMA copy.
- SwALIP: balanced soft targets.

Text is best augmented by words: `strong = "words"` in its field. Row 87 of the catalogue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, field_of, unknown, view_of
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.shapes import ema_update, momentum_copy, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.info_nce import info_nce
from amodal.objectives.negative_cosine import negative_cosine
from amodal.objectives.smoothed_info_nce import smoothed_info_nce
from amodal.objectives.swalip import swalip

WEIGHTS = {"none": 0.0, "barlip": 0.025, "siamlip": 1.0, "byolip": 1.0, "swalip": 0.2}

Pair = tuple[str, str]
"""Two sources."""


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
) -> Rocket:
    """CLIP on weak views, CL2L on strong ones, and an optional added loss.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        add: The added loss: "none", "barlip", "siamlip", "byolip" or "swalip".
        local_views: Number of strong views of each value (0 is CLIP's naive recipe).
        smoothing: Label smoothing of the local views (none with swalip, as in the paper).
        width: Width of the common space and of the local projectors.
        hidden: Hidden width of the local projectors, which have three layers.
        temperature: Initial value of both learned temperatures.
        max_scale: Upper bound of the inverse temperatures.
        added_width: Output width of the added loss's projectors (8192 for barlip in the paper).
        added_hidden: Hidden width of the added loss's projectors (3000 for barlip in the paper).
        momentum: Momentum of byolip's EMA copy.

    Raises:
        AmodalError: If `add` names no loss, or there is one field only.
    """
    if add not in WEIGHTS:
        raise unknown("loss to add", add, WEIGHTS)
    siamese = add in ("siamlip", "byolip")
    fields = list(encoder.fields)
    local = {
        f: Projector(encoder.width, width, hidden=hidden, layers=3) for f in fields if local_views
    }
    added = {
        f: Projector(
            encoder.width,
            added_width,
            hidden=added_hidden,
            layers=2 if siamese else 3,
            last_norm=siamese,
        )
        for f in fields
        if siamese or add == "barlip"
    }
    predictors = {
        f: Projector(added_width, added_width, hidden=added_hidden) for f in fields if siamese
    }
    scales = [Scale(1 / temperature, most=max_scale) for _ in range(2 if local_views else 1)]
    return Rocket(
        two_fields(encoder).align(width),
        add=add,
        local_views=local_views,
        smoothing=0.0 if add == "swalip" else smoothing,
        momentum=momentum,
        local=nn.ModuleDict(local),
        added=nn.ModuleDict(added),
        predictors=nn.ModuleDict(predictors),
        scales=nn.ModuleList(scales),
    )


@dataclass(frozen=True, kw_only=True)
class RocketFeatures(FeatureRecord):
    """Vectors of all views; projectors see whole batches, so they run in the losses."""

    aligned: Columns  # field -> (N, D), the weak view in the common space
    pooled: Columns  # source -> (N, D), the trunk's features of every view
    teacher: Columns  # source -> (N, D), the EMA copy's, empty without one


class Rocket(Method):
    """See `clip_rocket`.

    Args:
        add, local_views, smoothing, momentum: As of `clip_rocket`.
        local: Field -> projector of the strong views.
        added: Field -> projector of the added loss.
        predictors: Field -> predictor of the other field's projection.
        scales: The scale of the weak views and, if there are any, that of the strong ones.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        add: str,
        local_views: int,
        smoothing: float,
        momentum: float,
        local: nn.ModuleDict,
        added: nn.ModuleDict,
        predictors: nn.ModuleDict,
        scales: nn.ModuleList,
    ):
        super().__init__()
        self.encoder, self.views = encoder, ("weak",) + ("strong",) * local_views
        self.local, self.added, self.predictors, self.scales = local, added, predictors, scales
        self.add, self.local_views = add, local_views
        self.smoothing, self.momentum = smoothing, momentum
        self.ema_encoder: nn.Module | None = None
        self.ema_added: nn.Module | None = None
        if add == "byolip":
            self.ema_encoder, self.ema_added = momentum_copy(encoder), momentum_copy(added)

    def features(self, batch: Batch) -> RocketFeatures:
        pooled = self.encoder.features(batch)
        aligned = self.encoder.project(pooled)
        teacher: Columns = {}
        if isinstance(self.ema_encoder, Encoder):
            with torch.no_grad():
                copied = self.ema_encoder.features(batch)
            teacher = {s: copied[s] for s in copied.sources}
        return RocketFeatures(
            size=batch.size,
            aligned={field_of(s): aligned[s] for s in aligned.sources if view_of(s) <= 1},
            pooled={s: pooled[s] for s in pooled.sources},
            teacher=teacher,
        )

    def losses(self, features: RocketFeatures) -> dict[str, Tensor]:
        size, pooled = features.size, features.pooled
        aligned = Embeddings(dict(features.aligned), size)
        h = through(self.local, {s: c for s, c in pooled.items() if view_of(s) > 1}, size)
        v = through(self.added, pooled, size)
        p = through(self.predictors, v.columns, size)
        target = v
        if isinstance(self.ema_added, nn.ModuleDict):
            with torch.no_grad():
                target = through(self.ema_added, features.teacher, size)
        pairs, n = list(itertools.combinations(self.encoder.fields, 2)), self.local_views
        terms: dict[str, Tensor] = {}
        for a, b in pairs:
            weak = aligned.pair(a, b)
            strong = [(f"{a}:{i + 2}", f"{b}:{j + 2}") for i in range(n) for j in range(n)]
            # the weak view counts as one and the strong ones as n, in a mean over 1 + n
            terms[f"global/{a}~{b}"] = info_nce(*weak, temperature=1 / self.scales[0]()) / (1 + n)
            if strong:
                terms[f"local/{a}~{b}"] = self.of_strong(h, strong) * n / (1 + n)
            every = [(f"{a}:1", f"{b}:1") if strong else (a, b), *strong]
            if self.add == "swalip":
                extra = self.swapped([h.pair(*s) for s in strong] or [weak])
            elif self.add == "barlip":
                extra = mean(barlow_twins(*v.pair(*s), off_diagonal=5e-3) for s in every)
            elif self.add != "none":
                extra = predicted(p, target, every)
            if self.add != "none":
                terms[f"{self.add}/{a}~{b}"] = WEIGHTS[self.add] * extra
        return {name: term / len(pairs) for name, term in terms.items()}

    def of_strong(self, h: Embeddings, pairs: Sequence[Pair]) -> Tensor:
        """CL2L: smoothed InfoNCE of every two strong views of two fields, averaged."""
        t = 1 / self.scales[1]()
        return mean(
            smoothed_info_nce(*h.pair(*s), temperature=t, smoothing=self.smoothing) for s in pairs
        )

    def swapped(self, views: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """SwALIP. The targets of views (i, j) of two fields come from (i + 1, j + 1).

        Args:
            views: Vectors of view i of one field and j of the other, at i * local_views + j; or of
                the weak views alone, which are then their own targets.
        """
        n = self.local_views
        targets = [
            views[(i + 1) % n * n + (j + 1) % n] for i in range(n) for j in range(n)
        ] or views
        scale = self.scales[-1]
        return mean(swalip(*x, *y, temperature=1 / scale()) for x, y in zip(views, targets))

    def on_step_end(self, clock: Clock) -> None:
        if self.ema_encoder is not None and self.ema_added is not None:
            ema_update(self.ema_encoder, self.encoder, self.momentum)
            ema_update(self.ema_added, self.added, self.momentum)


def predicted(p: Embeddings, target: Embeddings, pairs: Iterable[Pair]) -> Tensor:
    """SiamLIP and ByoLIP: the negative cosine of predictions and the other field's projections."""
    directions = [way for s in pairs for way in (s, s[::-1])]
    return mean(
        negative_cosine(
            *Embeddings({"prediction": p[x], "target": target[y]}, p.size).pair(
                "prediction", "target"
            )
        )
        for x, y in directions
    )


def through(heads: nn.ModuleDict, columns: Columns, size: int) -> Embeddings:
    """The vectors of those sources whose field has a head, through it."""
    return Embeddings(
        {
            s: Column(heads[field_of(s)](c.flat), c.rows)
            for s, c in columns.items()
            if field_of(s) in heads
        },
        size,
    )


def mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()

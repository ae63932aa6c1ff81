"""CLIPRocket: CLIP with a strong recipe, and the non-contrastive losses that it was compared with.

Fini et al., TMLR 2023, arXiv:2305.08675. A weak ("global") view of each value has CLIP's loss.
Strong ("local") views of all fields have InfoNCE between every two of them, on projectors and a
temperature of their own, with smoothed labels (their CL2L). One more loss can be added:

- BarLIP: Barlow Twins.
- SiamLIP and ByoLIP: predict the other field's embedding; ByoLIP takes it from an EMA copy.
- SwALIP: balanced soft targets.

Text is best augmented by words: `--views text=stopwords,rocket,rocket` with a thesaurus, else
`strong = "words"` in its field. Row 87 of the catalogue.

Differs:

- encoder: a bidirectional transformer that pools by the mean, for text too. The authors have
  ResNet-50 or ViT for pictures and a causal text transformer of 12 layers (6 on CC3M):
  `--backbone image=timm:resnet50@scratch text=transformers:DIR@scratch` with the architecture and
  the tokenizer of a CLIP in DIR, whose vector is the mean of its tokens, theirs that of the last
  one. They drop up to 20 % of what enters the text's blocks, of strong views alone (0 on the larger
  data sets); here nothing is dropped.
- text: `stopwords` and `rocket` are their weak and strong views: without stop words (0.8; 0.9 on
  YFCC), then synonyms (0.4), a swap (0.4) or deletions (0.2). Stop words are those of scikit-learn,
  theirs those of NLTK; `rocket` takes a thesaurus that the user names (`thesaurus` of the field:
  WordNet's database, or a file). By default a text's views are a slice and damaged characters.
- pictures: the recipe's `half` and `simclr` are their crops of 50-100 % and of 8-100 %, 192 pixels
  wide on the largest data set. Their weak ones are not flipped, all of ours may be. Without the
  recipe crops are of 60-100 % and 20-100 %.
- heads: BarLIP's projector ends with a norm that has weights, and the correlations are of what
  comes out of that; here they are of standardised vectors. Linear layers before a norm have no
  bias. `--separate-proj-child`, a further pair of projectors for strong views of SiamLIP, ByoLIP
  and BarLIP, is not there.
- scales: bounds are applied to the value, and let gradients through; theirs clip the parameter
  after a step. Theirs are also at least 1.
- SwALIP: with other than two strong views, targets come from the next view of each field; without
  strong views the targets of a pair are its own. The authors have two only.
- recipe: the cosine ends at 1 % of the rate, theirs at 1e-5. Weight decay is 0.5 on CC3M.
- more than two fields: the mean over pairs of fields.
- product: zero-shot classes by prompts (`--protocol.templates`) and retrieval by `amodal evaluate`,
  in the common space of the weak views; the authors also report the local projectors' and a mix of
  both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Recipe, field_of, unknown, view_of
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

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-3,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_epochs=1.0,
    clip=0.0,
    views={"image": ("half", "simclr", "simclr")},
    batch_size=4096,
    epochs=32.0,
)

WEIGHTS = {"barlip": 0.025, "siamlip": 1.0, "byolip": 1.0, "swalip": 0.2}
REDUCTIONS = {"mean": 1.0, "sum": 2.0}
"""What the contrastive losses of both directions weigh, beside the added loss."""

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
    local_temperature: float = 0.1,
    max_scale: float = 100.0,
    reduction: str = "mean",
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
        temperature: Initial value of the learned temperature of the weak views.
        local_temperature: Initial value of that of the strong views.
        max_scale: Upper bound of the inverse temperatures.
        reduction: Of the two directions of the contrastive losses, "mean" or "sum" (the authors' on
            all but the smallest data set). It matters beside an added loss, which it leaves alone.
        added_width: Output width of the added loss's projectors (8192 for barlip in the paper).
        added_hidden: Hidden width of the added loss's projectors (3000 for barlip in the paper).
        momentum: Momentum of byolip's EMA copy.

    Raises:
        AmodalError: If `add` names no loss, `reduction` no reduction, or there is one field only.
    """
    if add not in ("none", *WEIGHTS):
        raise unknown("loss to add", add, ("none", *WEIGHTS))
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
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
    starts = [temperature, local_temperature] if local_views else [temperature]
    scales = [Scale(1 / start, most=max_scale) for start in starts]
    return Rocket(
        two_fields(encoder).align(width),
        add=add,
        local_views=local_views,
        smoothing=0.0 if add == "swalip" else smoothing,
        momentum=momentum,
        contrast=REDUCTIONS[reduction],
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
        contrast: Weight of the contrastive losses.
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
        contrast: float,
        local: nn.ModuleDict,
        added: nn.ModuleDict,
        predictors: nn.ModuleDict,
        scales: nn.ModuleList,
    ):
        super().__init__()
        self.encoder, self.views = encoder, ("weak",) + ("strong",) * local_views
        self.local, self.added, self.predictors, self.scales = local, added, predictors, scales
        self.add, self.local_views = add, local_views
        self.smoothing, self.momentum, self.contrast = smoothing, momentum, contrast
        self.ema_encoder: nn.Module | None = None
        self.ema_added: nn.Module | None = None
        if add == "byolip":
            self.ema_encoder, self.ema_added = momentum_copy(encoder), momentum_copy(added)

    def features(self, batch: Batch) -> RocketFeatures:
        pooled = self.encoder.features(batch)
        aligned = self.encoder.project(pooled)
        teacher: Columns = {}
        if isinstance(self.ema_encoder, Encoder):  # its parameters ask for no gradient
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
            target = through(self.ema_added, features.teacher, size)
        pairs, n = list(itertools.combinations(self.encoder.fields, 2)), self.local_views
        terms: dict[str, Tensor] = {}
        for a, b in pairs:
            weak = aligned.pair(a, b)
            strong = [(f"{a}:{i + 2}", f"{b}:{j + 2}") for i in range(n) for j in range(n)]
            # the weak view counts as one and the strong ones as n, in a mean over 1 + n
            share = self.contrast / (1 + n)
            nce = info_nce(*weak, temperature=1 / self.scales[0]())
            terms[f"global/{a}~{b}"] = share * nce
            if strong:
                terms[f"local/{a}~{b}"] = share * n * self.of_strong(h, strong)
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
        copies = ((self.ema_encoder, self.encoder), (self.ema_added, self.added))
        for teacher, student in copies:
            if teacher is not None:  # with statistics of its own
                ema_update(teacher, student, self.momentum, buffers=False)


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

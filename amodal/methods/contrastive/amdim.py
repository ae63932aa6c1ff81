"""AMDIM: the whole of one view, and pieces of it, predict local features of another view.

Bachman, Hjelm and Buchwalter, NeurIPS 2019, arXiv:1906.00910. Losses: their NCE of multiset targets
for 1 -> 5, 1 -> 7 and 5 -> 5 in both directions, the soft clip of scores, and the penalty on raw
scores. Mixtures of global features are an option. Row 95 of the catalogue.

Differs:

- encoder: of pictures of 32, 64 or 128 pixels theirs can be had, a residual network without padding
  whose maps of 1, 5 x 5 and 7 x 7 cells are the scales: `--backbone image=amdim:width=128,depth=10,
  out=1024 --method.width 1024`, say. Else a scale is what the same transformer makes of less input:
  `whole` of all tokens (their f1), `regions` of local windows of tokens, each encoded alone (f5),
  and `patches`, the tokens before the trunk, positions included (f7); 2 x 2 regions (`parts`).
  Other backbones, whose tokens have all seen each other, are refused.
- width: of the space of scores 128, theirs is 1,024 and more (`width`).
- heads: `whole` has one like the others, their f1 none but BatchNorm; between theirs and ours is a
  linear map to the encoder's width, behind which vectors are probed. The perceptron's second layer
  begins random, theirs at zero; the bypass as the identity, theirs with small noise beside it.
- views: with one field, two `strong` views predict each other. Theirs are crops of 30-100 % with
  more change of hue and no blur, `amdim` in the recipe; they share the flip. Pictures of 32 pixels
  they move by 4 and do not crop, and their best results have the policy of Fast AutoAugment.
  With two or more fields, the fields predict each other.
- penalty: 4e-2 as in the paper; releases of the authors' code have 4e-2 and 5e-2.
- locations: mean over those of a record, then over records, which may have several numbers of
  them.
- mixtures: as in the paper; they are not in the authors' code. The loss is measured from that of
  equal vectors, a constant. Their weights are not shown as a segmentation by any command.
- optimizer: weight decay is decoupled and of matrices alone; theirs is Adam's, of everything.
- classifiers: the authors' code trains two beside, on stopped features; here `amodal evaluate`
  does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Ragged, Recipe, Tokens, field_of, name_code
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import seed_column
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import field_pairs, refuse_backbones, token_column, view_pairs
from amodal.nn.backbones.body import MultiScaleBody
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import BypassHead
from amodal.nn.local_windows import local_windows
from amodal.objectives.local_nce import local_nce

SCALES = ("whole", "regions", "patches")
# of the authors' code for pictures of 32 and 64 pixels
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=2e-4,
    weight_decay=1e-5,
    betas=(0.8, 0.999),
    schedule="step",
    milestones=(250 / 300, 280 / 300),
    decay_rate=0.2,
    warmup_steps=500,
    clip=0.0,
    views={"image": ("amdim", "amdim")},
    batch_size=200,
    epochs=300.0,
)


def amdim(
    encoder: Encoder,
    *,
    width: int = 128,
    bound: float = 20.0,
    penalty: float = 4e-2,
    parts: int = 2,
    middle: bool = True,
    same_view: bool = False,
    mixtures: int = 1,
    sharpness: float = 1.0,
) -> Amdim:
    """Local NCE between the scales of two views, or of two fields.

    Args:
        encoder: Trained in place.
        width: Width of the space of scores (1024 and more in the paper).
        bound: Bound of the soft clip of scores, 0 for none.
        penalty: Weight of the mean squared score.
        parts: Number of pieces that each axis of a value is cut into for regions.
        middle: Also predict regions from one region drawn at random (5 -> 5).
        same_view: Predict a view's parts from the view itself, without `middle` (local DIM, the
            baseline).
        mixtures: Number of global vectors of each value. A mixture of them predicts each part.
        sharpness: Sharpness of the weights of a mixture.
    """
    return Amdim(
        encoder,
        width=width,
        bound=bound,
        penalty=penalty,
        parts=parts,
        middle=middle and not same_view,
        same_view=same_view,
        mixtures=mixtures,
        sharpness=sharpness,
    )


@dataclass(frozen=True, kw_only=True)
class AmdimFeatures(FeatureRecord):
    """Three scales of each source."""

    whole: Columns  # source -> (N, D), pooled over all tokens
    regions: Columns  # source -> N lists of (D,), pooled over the tokens of a local window
    patches: Columns  # source -> N lists of (D,), tokens before the trunk
    seeds: Column  # (B,)


class Levels(NamedTuple):
    """One source at three scales, in the space of scores."""

    whole: Column
    regions: Column
    patches: Column


class AmdimHeads(nn.Module):
    """Heads of each field and scale, and the linear map that makes mixtures of global vectors."""

    def __init__(self, encoder: Encoder, width: int, mixtures: int):
        super().__init__()
        self.by_scale = nn.ModuleDict(
            {
                f: nn.ModuleDict(
                    {scale: BypassHead(scale_width(encoder, f, scale), width) for scale in SCALES}
                )
                for f in encoder.fields
            }
        )
        self.mixtures = nn.ModuleDict(
            {f: nn.Linear(width, mixtures * width) for f in encoder.fields if mixtures > 1}
        )
        self.shape = (mixtures, width)

    def forward(self, features: AmdimFeatures, source: str) -> Levels:
        """The three scales of a source."""
        f, column = field_of(source), features.whole[source]
        heads = self.by_scale[f]
        assert isinstance(heads, nn.ModuleDict)
        whole = Column(heads["whole"](column.flat), column.rows)
        if f in self.mixtures:
            whole = Column(self.mixtures[f](whole.flat).unflatten(1, self.shape), whole.rows)
        regions, patches = features.regions[source], features.patches[source]
        return Levels(
            whole,
            regions.with_flat(heads["regions"](regions.flat)),
            patches.with_flat(heads["patches"](patches.flat)),
        )


def multi_scale(encoder: Encoder, field: str) -> Backbone | None:
    """The backbone of a field, if its model has smaller receptive fields too."""
    backbone = encoder.tokenizers[field] if field in encoder.tokenizers else None
    of_scales = isinstance(getattr(backbone, "body", None), MultiScaleBody)
    return backbone if of_scales and isinstance(backbone, Backbone) else None


def scale_width(encoder: Encoder, field: str, scale: str) -> int:
    """Dimensions of a field's features at a scale."""
    backbone = multi_scale(encoder, field)
    if backbone is None or scale == "whole":
        return encoder.width
    assert isinstance(backbone.body, MultiScaleBody)
    return backbone.body.scale_widths[scale]


class Amdim(Method):
    """Each source predicts the regions and patches of the other source of its pair.

    Args:
        width, bound, penalty, parts, same_view, mixtures, sharpness: As of `amdim`.
        middle: Whether a region predicts the other's regions.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        width: int,
        bound: float,
        penalty: float,
        parts: int,
        middle: bool,
        same_view: bool,
        mixtures: int,
        sharpness: float,
    ):
        super().__init__()
        refuse_backbones(
            encoder,
            "amdim",
            "its regions and patches have seen all of the value, and a region is no harder to "
            "predict than the whole",
            fields=[f for f in encoder.fields if multi_scale(encoder, f) is None],
            instead="of pictures take the paper's network, FIELD=amdim",
        )
        self.encoder = encoder
        self.heads = AmdimHeads(encoder, width, mixtures)
        self.bound, self.penalty, self.sharpness = bound, penalty, sharpness
        self.parts, self.middle, self.same_view = parts, middle, same_view
        self.of_views = len(encoder.fields) == 1
        self.views = ("strong", "strong") if self.of_views else ("weak",)

    def features(self, batch: Batch) -> AmdimFeatures:
        encoder, tokens = self.encoder, dict[str, Tokens]()
        whole, regions, patches = dict[str, Column](), dict[str, Column](), dict[str, Column]()
        for s, column in batch.columns.items():
            backbone = multi_scale(encoder, field_of(s))
            if backbone is None:
                tokens |= encoder.tokenize(batch.only(s))
                continue
            one, maps = backbone.at_scales(column, s, batch.size)
            regions[s], patches[s] = maps["regions"], maps["patches"]
            tokens[s] = encoder.add_positions(one)
        for s, context in alone(encoder, batch, tokens).items():
            whole[s] = encoder.pools[field_of(s)](context)
            if s not in patches:
                patches[s] = token_column(tokens[s])
                regions[s] = self.windows(tokens[s], s, batch.size)
        return AmdimFeatures(
            size=batch.size,
            whole=whole,
            regions=regions,
            patches=patches,
            seeds=seed_column(batch),
        )

    def windows(self, tokens: Tokens, source: str, size: int) -> Column:
        """The vectors of local windows of the N rows' tokens, each encoded alone."""
        pieces, owner = local_windows(tokens, self.parts)
        # windows are rows here, so a region's tokens see nothing outside of it
        context = self.encoder.encode({source: pieces})[source]
        vectors = self.encoder.pools[field_of(source)](context).flat
        lengths = torch.bincount(owner, minlength=size)
        rows = lengths.nonzero().flatten()
        return Column(Ragged(vectors, lengths[rows]), rows)

    def losses(self, features: AmdimFeatures) -> dict[str, Tensor]:
        levels = {s: self.heads(features, s) for s in features.whole}
        z = Embeddings(dict(features.whole), features.size)
        pairs = view_pairs(z) if self.of_views else field_pairs(z)
        terms: dict[str, Tensor] = {}
        for a, b in pairs:
            directions = [(a, a), (b, b)] if self.same_view else [(a, b), (b, a)]
            for source, target in directions:
                drawn = None
                if self.middle:
                    drawn = one_of(levels[source].regions, features.seeds.flat, source)
                for task, (one, many) in tasks(levels[source], levels[target], drawn).items():
                    loss, squares = self.task(one, many)
                    for name, term in (
                        (f"{task}/{a}~{b}", loss),
                        (f"penalty/{a}~{b}", self.penalty * squares),
                    ):
                        terms[name] = terms.get(name, 0.0) + term / len(directions)
        return {
            name: term / len(pairs)
            for name, term in terms.items()
            if self.penalty or "penalty" not in name
        }

    def task(self, one: Column, many: Column) -> tuple[Tensor, Tensor]:
        """The NCE of vectors with lists, over the rows that have both, and the mean squared
        score."""
        i, j = shared_rows(one, many)
        lists = many.values[j]
        assert isinstance(lists, Ragged)
        loss: Tensor
        squares: Tensor
        loss, squares = local_nce(
            one.flat[i], lists.flat, lists.lengths, bound=self.bound, sharpness=self.sharpness
        )
        return loss, squares


def tasks(
    source: Levels, target: Levels, region: Column | None
) -> dict[str, tuple[Column, Column]]:
    """Name -> what predicts, and the lists that are predicted.

    Args:
        region: One region of each row of the source, None to leave 5 -> 5 out.
    """
    pairs = {
        "whole>regions": (source.whole, target.regions),
        "whole>patches": (source.whole, target.patches),
    }
    return pairs if region is None else pairs | {"regions>regions": (region, target.regions)}


def one_of(column: Column, seeds: Tensor, source: str) -> Column:
    """One entry of each row's list, drawn by the row's seed."""
    lists = column.values
    assert isinstance(lists, Ragged)
    # `remainder` has the sign of the divisor, so that hashes below 0 give entries too
    draw = hash_bits(seeds[column.rows], name_code(f"amdim {source}")).remainder(lists.lengths)
    return Column(lists.flat[lists.starts() + draw], column.rows)

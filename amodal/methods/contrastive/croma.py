"""CROMA: two sensors that look at one place are contrasted, and what is hidden of both is predicted
from what is seen of both.

Fuller, Millard and Green, NeurIPS 2023, arXiv:2311.00566, section 3. Row 34 of the catalogue. Each
sensor has an encoder that sees a quarter of its patches. Vectors of the two, from the mean of the
visible tokens, are contrasted over the batch. A third encoder lets the tokens of the one (radar)
read those of the other (`deep`, optical), and a decoder predicts the hidden patches of both. There
are no position embeddings but in the decoder: attention is biased by distances (2D-ALiBi, and
X-ALiBi between sensors), so that a model of small tiles reads larger ones.

The two sensors are any two fields on a grid, such as two rasters or two pictures. Distances are
measured on the ground: where pixels or patches of two fields differ in size, in steps of the finer
field. A place of the decoder stands for the patches of both sensors only where their grids have the
same corners, as those of 8 x 8 pixels of 20 m and of 16 x 16 of 10 m have: `patch` in dataset.toml.
With more fields the others read `deep` together, contrasts are averaged over pairs of fields, and
fields that are not on a grid have places of their own.

Differs: from the paper and the authors' program (pretrain_croma.py):

- encoder: `--size`, of which the field `deep` has all blocks and the others half. ViT-B there has
  16 heads, here 12. Queries, keys and values have biases. The cross-attention norms its keys once,
  not in every block.
- self-attention of the fusion encoder is biased by distances among its own tokens, as in the paper;
  the program passes it the table between the sensors' visible patches.
- positions of the decoder: sines of three coordinates, theirs of two.
- predictions: pixels are normalised over the bands of a patch of one sensor, as a patch of the
  other may be elsewhere or missing; in the program over those of both. Missing pixels take no part.
  Fields that are not on a grid are predicted as their modality says.
- missing: patches without data are no tokens. A record with one sensor is not contrasted. Its
  tokens go through the fusion encoder alone, those of `deep` as queries.
- masks: of the row's seed. With n tokens round(n / 4) are seen, and one at least; int(n / 4) there.
- dates: one there. Here tokens of other dates are farther, by a step a month. Months count from the
  first date of the record in any sensor. Where the months of one sensor are not known, the dates of
  each sensor are numbered, and the first of all are one. In the decoder dates of other sensors that
  are at most a quarter of a month from one of `deep` are that date.
- ground: the size of a token over that of the finest sensor is taken as a simple fraction where it
  is within 1 % of one. Distances are between centres; the decoder's places are corners.
- temperature: the learned scale is bounded by `max_scale`, and not bounded there.
- decoder: half as wide as the encoder with heads of 64; 512 wide in the paper, for ViT-B and ViT-L.
- views: both sensors are rotated by quarters and mirrored alike, if both may be; otherwise values
  are left as they are. There is no crop, which the paper has (of 60 to 180 pixels, resized to 120):
  cut tiles before. Bands are standardised; theirs are clipped at two deviations.
- recipe: the repository has none. `PAPER_RECIPE` has the numbers of the paper's appendix as they
  are cited; its text could not be read for this page.
- larger tiles: `size` in dataset.toml, or `--resolution`, is the largest side that a run reads.
- product: the vectors of each sensor, and `fused`, the mean of the joint tokens.

Learns: no. Two groups of bands of a Sentinel-2 scene find each other, and simple features with a
CCA do it far better. On `sentinel2` (`s2_10m` and `s2_20m`, 960 tiles to learn from, `--size tiny`,
400 steps of 128) Recall@10 among 320 held-out tiles is .81 +-.04 and .83 +-.04. Simple features
have .98 +-.01 and 1.00, the untrained encoder .01 and .04, chance .03. Vegetation is read off by
nearest neighbours with an R2 of .995 from `s2_10m`, of .990 by the untrained encoder; but it is
made of these bands. On tiles of 32 pixels of `globe`, after 150 steps on tiles of 16, a linear
probe of climate zones has .71 with distances and .48 with sines; on tiles of 16 both have .68, as
much as the untrained encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, Recipe, Tokens, field_of, name_code, unknown
from amodal.core.embeddings import FUSED
from amodal.core.host import host_copy, take
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    refuse_backbones,
    row_losses,
    share,
    token_mean,
    two_fields,
)
from amodal.nn.attention.bias import ALIBI, ground_steps, plane_of, refuse_drawn_patches
from amodal.nn.common_dates import at_dates_of, with_common_dates
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.place_encoder import PlaceEncoder
from amodal.nn.generation.place_decoder import PlaceDecoder
from amodal.nn.pooling import PerceptronPool
from amodal.nn.scale import Scale
from amodal.nn.transformer import size_of
from amodal.objectives.info_nce import info_nce
from amodal.objectives.reconstruction import masked_mse

ENCODER = {"positions": "alibi"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=4e-6,
    lr_scaling="linear/256",
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup=0.05,
    clip=0.0,
    batch_size=7200,
    epochs=300.0,
)
"""Of CROMA-B on SSL4EO-S12."""
HEAD = 64
"""Width of a head of the decoder."""


def croma(
    encoder: Encoder,
    *,
    deep: str = "",
    width: int = 0,
    ratio: float = 0.75,
    shallow_depth: int = 0,
    fusion_depth: int = 0,
    decoder_width: int = 0,
    decoder_depth: int = 1,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    contrast_weight: float = 1.0,
    reconstruct_weight: float = 1.0,
) -> Croma:
    """Build CROMA.

    Args:
        encoder: Gets heads into a common space; needs two fields, each with a trunk of its own.
        deep: The field with the deeper encoder, whose tokens the others read (optical in the
            paper). Default: the first field.
        width: Width of the common space; 0 for the encoder's.
        ratio: Share of each field's tokens that is hidden.
        shallow_depth: Blocks of the encoders of the other fields; 0 for half of the size's.
        fusion_depth: Blocks of the fusion encoder; 0 for half of the size's.
        decoder_width: Of the decoder; 0 for half of the encoder's (512 in the paper).
        decoder_depth: Blocks of the decoder.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of its inverse.
        contrast_weight: Weight of the contrast.
        reconstruct_weight: Weight of the hidden patches.

    Raises:
        AmodalError: For a single field, backbones, a trunk that sources share, another pooling than
            the mean, and bad options.
    """
    two_fields(encoder)
    refuse_backbones(encoder, "croma")
    fields = encoder.fields
    if deep and deep not in fields:
        raise unknown("croma.deep, a field", deep, fields)
    if encoder.trunk != "separate" or encoder.mixer != "attention" or encoder.pool_name != "mean":
        raise AmodalError(
            'croma has an encoder for each field, trunk="separate" of attention, and a perceptron '
            f'of the mean token, pool="mean"; this encoder has {encoder.trunk!r}, mixer '
            f"{encoder.mixer!r} and pool {encoder.pool_name!r}"
        )
    if not 0 <= ratio < 1:
        raise AmodalError(f"croma.ratio is a share below 1, so that something is seen, not {ratio}")
    deep, blocks = deep or next(iter(fields)), size_of(encoder.size).depth
    if width < 0 or contrast_weight < 0 or reconstruct_weight < 0:
        raise AmodalError(
            "croma.width, croma.contrast_weight and croma.reconstruct_weight are at least 0, not "
            f"{width}, {contrast_weight} and {reconstruct_weight}"
        )
    refuse_drawn_patches(fields, "croma")
    half, decoder_width = blocks // 2, decoder_width or encoder.width // 2
    if fusion_depth < 0 or decoder_depth < 1 or decoder_width < 1:
        raise AmodalError(
            "croma.fusion_depth is at least 0, and decoder_depth and decoder_width at least 1, not "
            f"{fusion_depth}, {decoder_depth} and {decoder_width}"
        )
    encoder.set_depths({f: shallow_depth or half for f in fields if f != deep})
    for field in fields:
        encoder.set_pool(field, PerceptronPool(encoder.width))
    fusion = PlaceEncoder(
        encoder.width,
        fusion_depth or half,
        encoder.num_heads,
        read=deep,
        steps=ground_steps(fields),
        plane=plane_of(fields),
        biased=encoder.positions == ALIBI,
    )
    decoder = PlaceDecoder(
        fusion.places,
        encoder.width,
        width=decoder_width,
        depth=decoder_depth,
        heads=max(1, decoder_width // HEAD),
    )
    encoder.set_pool(FUSED, fusion)
    return Croma(
        encoder.align(width or encoder.width, bias=True),
        decoder,
        nn.ModuleDict({f: m.predictor(decoder_width) for f, m in fields.items()}),
        scale=Scale(1 / temperature, most=max_scale),
        ratio=ratio,
        weights={"contrast": contrast_weight, "reconstruct": reconstruct_weight},
    )


@dataclass(frozen=True, kw_only=True)
class CromaFeatures(FeatureRecord):
    """What single rows give.

    Args:
        aligned: source -> (N, D) of the visible tokens, in the common space.
        hidden: source -> (N, 2) sum and number of the losses of hidden tokens.
    """

    aligned: Columns
    hidden: Columns


class Croma(Method):
    """See `croma`.

    Args:
        encoder: A trunk for each field, and the fusion encoder as the pool of all of them.
        decoder: Of the joint tokens.
        predictors: field -> vectors of the decoder (t, width) -> predictions.
        scale: The learned inverse temperature.
        ratio: Share of tokens that is hidden.
        weights: Of "contrast" and "reconstruct".
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        decoder: PlaceDecoder,
        predictors: nn.ModuleDict,
        *,
        scale: Scale,
        ratio: float,
        weights: Mapping[str, float],
    ):
        super().__init__()
        self.encoder, self.decoder, self.predictors = encoder, decoder, predictors
        self.scale, self.ratio, self.weights = scale, ratio, dict(weights)
        # what both sensors see of a place must stay where it is
        grids = [encoder.fields[f] for f in plane_of(encoder.fields)]
        turn = bool(grids) and all(m.known_view("turned") == "turned" for m in grids)
        self.views = ("turned",) if turn else ("plain",)

    @property
    def fusion(self) -> PlaceEncoder:
        """Reads what the trunks of the fields give."""
        return cast(PlaceEncoder, self.encoder.pools[FUSED])

    def logit_scale(self) -> Scale:
        """The learned scale of cosines."""
        return self.scale

    def features(self, batch: Batch) -> CromaFeatures:
        encoder = self.encoder
        tokens = encoder.tokenize(batch)
        seen = {s: self.visible(t, batch.seeds) for s, t in tokens.items()}
        context = encoder.encode({s: t.keep(seen[s]) for s, t in tokens.items()})
        # of all tokens, as the first date of a row may be hidden
        plane, read = self.fusion.places.plane, self.fusion.read
        whole = with_common_dates(Tokens.join(list(tokens.values())), plane)
        dated = {s: whole.only(s).renamed(s) for s in tokens}
        shown = [replace(t, position=dated[s].keep(seen[s]).position) for s, t in context.items()]
        joint = self.fusion.encode(Tokens.join(shown))
        deep = whole.only(*(s for s in tokens if field_of(s) == read))
        placed = (at_dates_of(t, deep, plane) for t in (joint, whole))
        decoded = whole.with_x(self.decoder(*placed))
        hidden = {s: decoded.only(s).renamed(s).keep(~seen[s]) for s in tokens}
        return CromaFeatures(
            size=batch.size,
            aligned=vectors(encoder, context, batch.size).columns,
            hidden={
                s: row_losses(self.token_losses(t, take(self.targets(s, batch), ~seen[s])), t)
                for s, t in hidden.items()
            },
        )

    def losses(self, features: CromaFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        contrast = share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / self.scale())
                for a, b in field_pairs(z)
            }
        )
        # a sum over sensors, each a mean over its own hidden tokens
        hidden = {f"reconstruct/{s}": token_mean(column) for s, column in features.hidden.items()}
        weights = self.weights
        return {name: weights["contrast"] * term for name, term in contrast.items()} | {
            name: weights["reconstruct"] * term for name, term in hidden.items()
        }

    def visible(self, tokens: Tokens, seeds_B: Tensor) -> Tensor:
        """(T,) bool, on the CPU: the tokens of one source that its encoder sees."""
        skeleton, code = tokens.skeleton(), name_code(tokens.names[0])
        bits = hash_bits(host_copy(seeds_B), code)[skeleton.row]
        return random_keep(skeleton.row, bits, skeleton.within(), self.ratio)

    def targets(self, source: str, batch: Batch) -> Tensor:
        """(T, ...) what is predicted of each token."""
        return self.encoder.fields[field_of(source)].targets(batch[source].values)

    def token_losses(self, decoded: Tokens, target: Tensor) -> Tensor:
        """(t,) the loss of each of some tokens of one source: pixels of a grid are normalised
        within their patch."""
        field = field_of(decoded.names[0])
        modality, prediction = self.encoder.fields[field], self.predictors[field](decoded.x)
        if modality.layout == "grid":
            return masked_mse(prediction, target, normalise=True)
        return modality.token_loss(prediction, target)

"""MIRROR: fields are aligned, each retains what is specific to it, and their styles are clustered.

Wang, Fan, Zhang, Liu, Xia, Huang and Cai, 2025, arXiv:2503.00374. Loss: their weighted sum of
alignment (symmetric InfoNCE), retention (masked tokens of the encoder's own output), style (a
variational bottleneck that the fields share) and cluster (agreement on prototypes). Row 62 of the
catalogue.

The paper's encoders are backbones from scratch, of the width of `--size base`: TransMIL for a
slide, a list of vectors that a frozen network made of its patches, and a perceptron with two blocks
over its one vector for the genes of a table.

    amodal pretrain mirror --data DATA --size base --recipe paper --out RUN
        --backbone slide=transmil:width=768 --backbone genes=vector_transformer
    amodal adapt RUN --data DATA --label subtype --out RUN2

`draw = 2048` of the field in `dataset.toml` draws that many patches anew in each epoch. Of a field
that is one vector, entries are hidden, of one behind a class token all tokens but that one; fields
with other encoders are hidden token by token.

Differs:

- encoder: a linear map stands between each backbone and the common width, and the authors' dropout
  of .1 is at rest. Landmarks' pseudoinverses begin at each slide's own scale, theirs at the largest
  of the batch. Cells of genes are in deviations of their column.
- retention: places in a list are sines, theirs are learned. At least one token stays visible.
- as in their program, the target of retention is the encoder's output with its gradient, unless
  `stop_target`.
- alignment takes cosines of linear maps without a bias; their program normalises before its linear
  layer, and leaves the length to that layer.
- any number of fields: pairs and fields are averaged so that two of them weigh as in the paper.
- weights: those of the paper and of the program's loss; its template of a configuration has 0.15
  for retention and 0.1 for clusters.
- views: without `draw`, `weak`; the authors change nothing but the draw, also of genes
  (`--views genes=plain`).
- product: subtypes and survival are read by a head on both vectors (`amodal adapt`, a label of
  classes or TIME,EVENT); the authors' loss of survival is of discrete intervals, here it is Cox's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Recipe, Tokens, field_of, name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import seed_column
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, row_losses, share, token_mean, two_fields
from amodal.methods.shared.typed_parts import field_pool, has_class_token, is_one_vector
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.gaussian_bottleneck import GaussianBottleneck
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.generation.retention import ListDecoder, VectorDecoder
from amodal.nn.pooling import FirstPool
from amodal.nn.scale import Scale
from amodal.objectives.gaussian_kl import gaussian_kl
from amodal.objectives.info_nce import info_nce
from amodal.objectives.reconstruction import masked_mse
from amodal.objectives.symmetric_kl import symmetric_kl

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=2e-5,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup_steps=0,
    clip=0.0,
    batch_size=16,
    epochs=100.0,
)
"""The template of the authors' program: Adam at a constant rate."""


def mirror(
    encoder: Encoder,
    *,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    ratio: float = 0.75,
    stop_target: bool = False,
    prototypes: int = 3000,
    hidden: int = 512,
    latent: int = 128,
    align: float = 0.5,
    retain: float = 0.1,
    style: float = 0.1,
    cluster: float = 0.2,
) -> Mirror:
    """Alignment, retention, style and cluster losses.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of the inverse temperature.
        ratio: Share of a field's encoded tokens that are hidden.
        stop_target: Stop the gradient through the targets of hidden tokens.
        prototypes: Number of clusters.
        hidden: Width of the style's perceptron; its output has half of it.
        latent: Width of the bottleneck.
        align: Weight of alignment.
        retain: Weight of retention, for each of two fields.
        style: Weight of style, for each of two fields.
        cluster: Weight of cluster agreement.
    """
    weights = Weights(align=align, retain=retain, style=style, cluster=cluster)
    for field in two_fields(encoder).fields:
        if has_class_token(encoder, field):
            encoder.set_pool(field, FirstPool(encoder.width))
    heads = GaussianBottleneck(encoder.width, hidden, latent, prototypes)
    scale = Scale(1 / temperature, most=max_scale)
    return Mirror(
        encoder.align(width),
        retention=Retention(encoder, ratio, stop_target),
        style=heads,
        scale=scale,
        weights=weights,
    )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the four losses."""

    align: float
    retain: float
    style: float
    cluster: float


@dataclass(frozen=True, kw_only=True)
class MirrorFeatures(FeatureRecord):
    """Vectors before and after the heads, and the losses of retention."""

    aligned: Columns  # source -> (N, D) in the common space
    pooled: Columns  # source -> (N, D) of the trunk
    retained: Columns  # source -> (N, 2), sum and number of the losses of hidden tokens
    seeds: Column  # (B,)


class Mirror(Method):
    """See `mirror`."""

    min_batch_size, views = 2, ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        retention: Retention,
        style: GaussianBottleneck,
        scale: Scale,
        weights: Weights,
    ):
        super().__init__()
        self.encoder, self.retention, self.style = encoder, retention, style
        self.scale, self.weights = scale, weights

    def features(self, batch: Batch) -> MirrorFeatures:
        encoder = self.encoder
        context = {s: t for s, t in alone(encoder, batch).items() if s in batch.columns}
        pooled = {s: encoder.pools[field_of(s)](tokens) for s, tokens in context.items()}
        return MirrorFeatures(
            size=batch.size,
            aligned=vectors(encoder, context, batch.size).columns,
            pooled=pooled,
            retained={s: self.retention(encoder, t, batch.seeds) for s, t in context.items()},
            seeds=seed_column(batch),
        )

    def losses(self, features: MirrorFeatures) -> dict[str, Tensor]:
        z, weights = Embeddings(dict(features.aligned), features.size), self.weights
        pairs = field_pairs(z)
        styles = {
            s: self.style(features.pooled[s], features.seeds.flat, name_code(s)) for s in z.sources
        }
        scores = Embeddings(
            {s: Column(scores, z[s].rows) for s, (_, _, scores) in styles.items()}, z.size
        )
        # times 2, since `share` averages over fields and the paper sums over two
        retention = {
            f"retain/{s}": 2 * weights.retain * token_mean(features.retained[s]) for s in z.sources
        }
        style = {
            f"style/{s}": 2 * weights.style * gaussian_kl(mean, log_variance)
            for s, (mean, log_variance, _) in styles.items()
        }
        alignment = {
            f"info_nce/{a}~{b}": weights.align
            * info_nce(*z.pair(a, b), temperature=1 / self.scale())
            for a, b in pairs
        }
        clusters = {
            f"cluster/{a}~{b}": weights.cluster * symmetric_kl(*scores.pair(a, b)) for a, b in pairs
        }
        return share(alignment) | share(retention) | share(style) | share(clusters)


class Retention(nn.Module):
    """Hides most encoded tokens of a field, and predicts them from the others by one block.

    Of a field that is one vector, entries are hidden. Where the first token stands for the whole,
    it stays visible.

    Args:
        encoder: Its fields' backbones decide what is hidden.
        ratio: Share of the tokens, or of the entries, that are hidden.
        stop_target: Stop the gradient through the targets.
    """

    def __init__(self, encoder: Encoder, ratio: float, stop_target: bool):
        super().__init__()
        self.ratio, self.stop_target, width = ratio, stop_target, encoder.width
        heads, vectors, lists = encoder.num_heads, {}, {}
        for f in encoder.fields:
            if is_one_vector(encoder, f):
                vectors[f] = VectorDecoder(width, heads)
            elif has_class_token(encoder, f):
                lists[f] = ListDecoder(width, heads)
        others = [f for f in encoder.fields if f not in vectors | lists]
        self.vectors, self.lists = nn.ModuleDict(vectors), nn.ModuleDict(lists)
        self.decoders = nn.ModuleDict(
            {f: MaskDecoder([f], width, width=width, depth=1, heads=heads) for f in others}
        )
        self.predictors = nn.ModuleDict({f: nn.Linear(width, width) for f in others})

    def forward(self, encoder: Encoder, tokens: Tokens, seeds: Tensor) -> Column:
        """The losses of the hidden tokens of each row.

        Args:
            tokens: Of one source, at the end of the trunk.
            seeds: (B,).

        Returns:
            (N, 2) of each row that has any: the sum of squared errors, and their number.
        """
        source = tokens.names[0]
        field = field_of(source)
        draws = hash_bits(seeds, name_code(f"retained {source}"))
        if field in self.vectors:
            return self._entries(tokens, draws, self.vectors[field])
        parts = field_pool(encoder, source).strip(tokens)
        keep = random_keep(parts.row, draws[parts.row], parts.within(), self.ratio)
        hidden = parts.keep(~keep)
        if field in self.lists:
            whole = tokens.skeleton().within() > 0
            hidden_T = torch.zeros_like(whole).masked_scatter(whole, ~keep.to(whole.device))
            predicted = self.lists[field](tokens, hidden_T.to(tokens.x.device))
        else:
            [decoded] = self.decoders[field]([parts.keep(keep)], [hidden])
            predicted = self.predictors[field](decoded.x)
        return row_losses(masked_mse(predicted, self._target(hidden.x), normalise=False), hidden)

    def _entries(self, tokens: Tokens, draws: Tensor, decoder: nn.Module) -> Column:
        """The losses of the hidden entries of single vectors."""
        count, width = tokens.x.shape
        vector = torch.arange(count, device=draws.device).repeat_interleave(width)
        entry = torch.arange(width, device=draws.device).repeat(count)
        keep = random_keep(vector, draws[tokens.row].repeat_interleave(width), entry, self.ratio)
        hidden_ND = ~keep.view(count, width).to(tokens.x.device)
        error_ND = (decoder(tokens.x, hidden_ND) - self._target(tokens.x)).square() * hidden_ND
        losses = torch.stack([error_ND.sum(1), hidden_ND.sum(1).to(error_ND.dtype)], 1)
        return Column(losses, tokens.rows())

    def _target(self, x: Tensor) -> Tensor:
        return x.detach() if self.stop_target else x

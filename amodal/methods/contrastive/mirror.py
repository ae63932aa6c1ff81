"""MIRROR: fields are aligned, each keeps what it alone holds, and what is left of their styles
falls into common clusters. Wang, Fan, Zhang, Liu, Xia, Huang and Cai, 2025, arXiv:2503.00374. Loss:
their weighted sum of alignment (symmetric InfoNCE), retention (masked tokens of the encoder's own
output), style (a variational bottleneck that the fields share) and cluster (agreement on
prototypes). Row 62 of the catalogue.

Differences: any fields, with pairs and fields averaged so that two of them weigh as in the paper;
any field is hidden token by token, where the paper hides entries of the single vector that it makes
of the genes; the encoder's tokens are decoded without its CLS token; alignment takes cosines, where
the reference code leaves the length to the head. As there, the target of retention is the encoder's
output with its gradient, unless `stop_target`."""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Tokens, field_of, name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Features, Method
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, row_losses, share, token_mean, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.gaussian_bottleneck import GaussianBottleneck
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.scale import Scale
from amodal.objectives.gaussian_kl import gaussian_kl
from amodal.objectives.info_nce import info_nce
from amodal.objectives.reconstruction import masked_mse
from amodal.objectives.symmetric_kl import symmetric_kl


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
) -> Method:
    """width: of the common space; temperature: where the learned softmax temperature starts;
    max_scale: bound of its inverse; ratio: share of a field's encoded tokens that are hidden;
    stop_target: predict them without moving them; prototypes: clusters; hidden: width of the
    style's perceptron, which has half of it as output; latent: of the bottleneck; align, retain,
    style, cluster: weights of the losses, retain and style for each of two fields."""
    weights = {"align": align, "retain": retain, "style": style, "cluster": cluster}
    heads = GaussianBottleneck(encoder.width, hidden, latent, prototypes)
    scale = Scale(1 / temperature, most=max_scale)
    return Mirror(
        two_fields(encoder).align(width),
        Retention(encoder, ratio, stop_target),
        heads,
        scale,
        weights,
    )


class Mirror(Method):
    min_batch_size, views = 2, ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        retention: Retention,
        style: GaussianBottleneck,
        scale: Scale,
        weights: dict[str, float],
    ):
        super().__init__()
        self.encoder, self.retention, self.style, self.scale, self.weights = (
            encoder,
            retention,
            style,
            scale,
            weights,
        )

    def features(self, batch: Batch) -> Features:
        context = {s: bag for s, bag in alone(self.encoder, batch).items() if s in batch.columns}
        own = {s: self.encoder.pools[field_of(s)](bag) for s, bag in context.items()}
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        columns |= {f"own/{s}": column for s, column in own.items()}
        columns |= {
            f"retain/{s}": self.retention(self.encoder, bag, batch.seeds)
            for s, bag in context.items()
        }
        return Features(columns | {SEED: seed_column(batch)}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings(
            {s: features[s] for s in features.sources if f"own/{s}" in features}, features.size
        )
        pairs, seeds, weight = field_pairs(z), features[SEED].values, self.weights
        drawn = {s: self.style(features[f"own/{s}"], seeds, name_code(s)) for s in z.sources}
        scores = Embeddings(
            {s: Column(scores, z[s].rows) for s, (_, _, scores) in drawn.items()}, z.size
        )
        retained = {
            f"retain/{s}": 2 * weight["retain"] * token_mean(features[f"retain/{s}"])
            for s in z.sources
        }
        styles = {
            f"style/{s}": 2 * weight["style"] * gaussian_kl(mean, spread)
            for s, (mean, spread, _) in drawn.items()
        }
        found = {
            f"info_nce/{a}~{b}": weight["align"]
            * info_nce(*z.pair(a, b), temperature=1 / self.scale())
            for a, b in pairs
        }
        clusters = {
            f"cluster/{a}~{b}": weight["cluster"] * symmetric_kl(*scores.pair(a, b))
            for a, b in pairs
        }
        return share(found) | share(retained) | share(styles) | share(clusters)


class Retention(nn.Module):
    """Tokens of one field at the end of the trunk, most of them hidden and predicted from the
    others by one block."""

    def __init__(self, encoder: Encoder, ratio: float, stop_target: bool):
        super().__init__()
        self.ratio, self.stop_target, d = ratio, stop_target, encoder.width
        one = dict(width=d, depth=1, heads=encoder.num_heads)
        self.decoders = nn.ModuleDict({f: MaskDecoder([f], d, **one) for f in encoder.fields})
        self.predictors = nn.ModuleDict({f: nn.Linear(d, d) for f in encoder.fields})

    def forward(self, encoder: Encoder, bag: Tokens, seeds: Tensor) -> Column:
        """For each row that has any, the sum of the squared errors of its hidden tokens, and their
        number."""
        field = field_of(bag.names[0])
        bag = encoder.pools[field].strip(bag)
        own = hash_bits(seeds, name_code(f"retained {bag.names[0]}"))
        keep = random_keep(bag.row, own[bag.row], bag.within(), self.ratio)
        hidden = bag.keep(~keep)
        [decoded] = self.decoders[field]([bag.keep(keep)], [hidden])
        target = hidden.x.detach() if self.stop_target else hidden.x
        return row_losses(
            masked_mse(self.predictors[field](decoded.x), target, normalise=False), hidden
        )

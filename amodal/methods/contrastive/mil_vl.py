"""LSE+NL: matching an image and its report as multiple-instance learning, region by region and as a whole.
Wang, Wells, Berkowitz, Horng and Golland, IPMI 2023, arXiv:2212.05561, section 3. Local score: S(X, Y) = mean over sentences m of
(1 / g) log mean_n exp(g <x_n, y_m>) over regions n; global score: mean_m <x, y_m>, with x an image vector for which regions have looked
at each other (here the mean of the trunk's tokens, which its self-attention has correlated). Each has InfoNCE in both directions.
Row 81 of the catalogue. Texts should hold a sentence a line; of a single line, stretches are taken."""

import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Embeddings, field_of
from amodal.core.column import shared_rows
from amodal.methods._contract import Features
from amodal.methods._regions import alone, regions, sentences, texts_and_others, vectors
from amodal.methods.shapes import Towers, sense_pairs, share
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.bags import padded
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil import bag_scores, bag_tile, pooling
from amodal.objectives.score_nce import score_nce


def mil_vl(
    encoder: Encoder,
    *,
    pool: str = "lse",
    sharpness: float = 10.0,
    local: float = 1.0,
    whole: float = 1.0,
    captions: int = 4,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """pool: over regions, "lse", "mean", "max", "attention" or "noisy_or"; sharpness: g of lse, and of the softmax of attention and the
    sigmoid of noisy_or (the paper searches it); local, whole: weights of the two losses, 0 leaves one out; captions: sentences drawn of
    each text in each step, with replacement; width: of the common space; temperature: where the learned softmax temperatures start;
    max_scale: bound of their inverse."""
    if not local and not whole:
        raise AmodalError(
            "mil_vl without `local` and without `whole` compares no text with anything; give one of them a weight"
        )
    texts, others = texts_and_others(encoder)
    over_regions = pooling(pool, sharpness)
    scale = torch.nn.ModuleDict({k: Scale(1 / temperature, most=max_scale) for k in ("local", "whole")})

    def objective(z):
        senses = Embeddings({s: z[s] for s in z if field_of(s) in others}, z.size)
        inner = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale["whole"]())
            for a, b in sense_pairs(senses)
        }
        parts, wholes = {}, {}
        for s in others:
            for t in texts:
                text = sentences(z, [f"{t}:{k}" for k in range(1, captions + 1)] if captions > 1 else [t])
                a, b = shared_rows(z[s], text)
                lines = normalize(text.values[b], dim=2)
                if local:
                    blocks, there = padded(z[f"{s}/regions"].values[a])
                    parts[f"local/{s}~{t}"] = local * by_parts(blocks, there, lines)
                if whole:
                    pair, middle = normalize(z[s].values[a], dim=1), lines.mean(1)
                    loss = score_nce(lambda x, m=middle: x @ m.T, pair, temperature=1 / scale["whole"]())
                    wholes[f"whole/{s}~{t}"] = whole * loss
        return share(inner) | share(parts) | share(wholes)

    def by_parts(blocks, there, lines):
        words = lines.flatten(0, 1)
        lengths = torch.full((len(lines),), captions, dtype=torch.int64, device=lines.device)

        def scores(block, mask):
            return bag_scores(block, mask, words, lengths, pool=over_regions)

        return score_nce(scores, blocks, there, temperature=1 / scale["local"](), tile=bag_tile(there, words))

    views = {f: ("local",) * captions if f in texts else ("weak",) for f in encoder.fields}
    return Regions(encoder.align(width), objective, views=views, learned=scale, others=others)


class Regions(Towers):
    """Features are the vectors of all sources and, of each sense but texts, its regions."""

    def __init__(self, *args, others, **kwargs):
        super().__init__(*args, **kwargs)
        self.others = others

    def features(self, batch: Batch) -> Features:
        context = alone(self.encoder, batch)
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        columns |= {f"{s}/regions": regions(self.encoder, context[s]) for s in self.others}
        return Features(columns, batch.size)

"""LSE+NL: matching an image and its report as multiple-instance learning, region by region and as a
whole. Wang, Wells, Berkowitz, Horng and Golland, IPMI 2023, arXiv:2212.05561, section 3. Local
score: S(X, Y) = mean over sentences m of (1 / g) log mean_n exp(g <x_n, y_m>) over regions n;
global score: mean_m <x, y_m>, with x an image vector for which regions have looked at each other
(here the mean of the trunk's tokens, which its self-attention has correlated). Each has InfoNCE in
both directions. Row 81 of the catalogue. Texts should hold a sentence a line; of a single line,
stretches are taken."""

import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError, Embeddings, field_of, views_of
from amodal.core.column import shared_rows
from amodal.methods.shared.regions import WithRegions, sentences, texts_and_others
from amodal.methods.shared.shapes import Towers, field_pairs, share
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil import bag_nce, pooling
from amodal.objectives.packed import pad_packed
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
    """pool: over regions, "lse", "mean", "max", "attention" or "noisy_or"; sharpness: g of lse, and
    of the softmax of attention and the sigmoid of noisy_or (the paper searches it); local, whole:
    weights of the two losses, 0 leaves one out; captions: sentences drawn of each text in each
    step, with replacement; width: of the common space; temperature: where the learned softmax
    temperatures start; max_scale: bound of their inverse."""
    if not local and not whole:
        raise AmodalError(
            "mil_vl compares nothing without `local` and without `whole`; give one of them a weight"
        )
    texts, others = texts_and_others(encoder)
    over_regions = pooling(pool, sharpness)
    scale = torch.nn.ModuleDict(
        {k: Scale(1 / temperature, most=max_scale) for k in ("local", "whole")}
    )

    def objective(z):
        fields = Embeddings({s: z[s] for s in z if field_of(s) in others}, z.size)
        heat = 1 / scale["whole"]()
        inner = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=heat)
            for a, b in field_pairs(fields)
        }
        parts, wholes = {}, {}
        for s in others:
            for t in texts:
                text = sentences(z, views_of(t, captions))
                a, b = shared_rows(z[s], text)
                lines = normalize(text.values[b], dim=2)
                if local:
                    blocks, there = pad_packed(z[f"{s}/regions"].values[a])
                    how = {"temperature": 1 / scale["local"](), "pool": over_regions}
                    parts[f"local/{s}~{t}"] = local * bag_nce(blocks, there, lines, **how)
                if whole:
                    pair, middle = normalize(z[s].values[a], dim=1), lines.mean(1)
                    wholes[f"whole/{s}~{t}"] = whole * score_nce(
                        lambda x, m=middle: x @ m.T, pair, temperature=heat
                    )
        return share(inner) | share(parts) | share(wholes)

    views = {f: ("local",) * captions if f in texts else ("weak",) for f in encoder.fields}
    return WithRegions(encoder.align(width), objective, views=views, learned=scale, parts=others)

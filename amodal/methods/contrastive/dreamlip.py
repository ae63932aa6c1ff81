"""DreamLIP: each sentence of a long caption is a positive of its own, tied to the patches that it
describes. Zheng, Zhang, Wu, Lu, Ma, Jin, Chen and Shen, ECCV 2024, arXiv:2403.17007. Losses: their
eq. 3 (InfoNCE with the caption and with each of K sampled sentences) and eq. 4-8 (grouping; a
sentence and its group find each other among those of the batch). Row 104 of the catalogue. Captions
should hold a sentence a line; of a single line, stretches are taken."""

import torch

from amodal.core import Batch, Column, Embeddings, Ragged, field_of, views_of
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Features
from amodal.methods.shared.regions import alone, regions, sentences, texts_and_others, vectors
from amodal.methods.shared.shapes import Towers, field_pairs, share
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.grouping import group_patches
from amodal.objectives.info_nce import info_nce
from amodal.objectives.packed import pad_packed, row_index


def dreamlip(
    encoder: Encoder,
    *,
    captions: int = 8,
    weight: float = 1.0,
    threshold: float = 0.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """captions: K, sentences drawn of each text in each step, with replacement, besides the text
    itself; weight: lambda of the grouping loss (0 leaves it out); threshold: of scaled
    similarities, below which a patch is not in the group, 0 for one over the number of patches;
    width: of the common space; temperature: where the two learned softmax temperatures start;
    max_scale: bound of their inverse."""
    texts, others = texts_and_others(encoder)
    scale = torch.nn.ModuleDict(
        {k: Scale(1 / temperature, most=max_scale) for k in ("whole", "group")}
    )

    def objective(z):
        fields = Embeddings({s: z[s] for s in z if field_of(s) in encoder.fields}, z.size)
        plain = [
            (a, b)
            for a, b in field_pairs(fields)
            if field_of(a) in others and field_of(b) in others
        ]
        losses = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale["whole"]())
            for a, b in plain
        }
        grouped = {}
        for s in others:
            for t in texts:
                each = [
                    info_nce(*z.pair(s, view), temperature=1 / scale["whole"]())
                    for view in views_of(t, captions + 1)
                ]
                losses[f"sentences/{s}~{t}"] = torch.stack(each).mean()
                if weight:
                    fresh = z[f"{s}/{t} fresh"].values
                    pair = z[f"{s}/{t} group"].values[fresh], z[f"{s}/{t}"].values[fresh]
                    grouped[f"group/{s}~{t}"] = weight * info_nce(
                        *pair, temperature=1 / scale["group"]()
                    )
        return share(losses) | share(grouped)

    views = {
        f: ("weak", *["local"] * captions) if f in texts else ("weak",) for f in encoder.fields
    }
    between = (texts, others) if weight else ([], [])
    return DreamLip(
        encoder.align(width),
        objective,
        views=views,
        learned=scale,
        between=between,
        threshold=threshold,
    )


class DreamLip(Towers):
    """Features are the vectors of all views and, for each text and each other field, sentences and
    the groups they form."""

    def __init__(self, *args, between, threshold, **kwargs):
        super().__init__(*args, **kwargs)
        self.between, self.threshold = between, threshold

    def features(self, batch: Batch) -> Features:
        context = alone(self.encoder, batch)
        z = vectors(self.encoder, context, batch.size)
        columns = dict(z.columns)
        for t in self.between[0]:
            lines = [s for s in batch.sources if field_of(s) == t][1:]
            text, fresh = sentences(z, lines), first_time([batch[s].values for s in lines])
            for s in self.between[1]:
                parts = regions(self.encoder, context[s])
                a, b = shared_rows(parts, text)
                patches, there = pad_packed(parts.values[a])
                group, _ = group_patches(text.values[b], patches, there, threshold=self.threshold)
                rows, name = text.rows[b], f"{s}/{t}"
                columns |= {
                    name: Column(text.values[b], rows),
                    f"{name} group": Column(group, rows),
                }
                columns[f"{name} fresh"] = Column(fresh[b], rows)
        return Features(columns, batch.size)


def first_time(lines: list[Ragged]) -> torch.Tensor:
    """(N, K) bool: whether a row's line k is none of its lines before k. A line drawn twice is no
    stranger to itself."""
    codes = []
    for values in lines:
        within = (
            torch.arange(len(values.flat), device=values.flat.device)
            - values.starts()[row_index(values.lengths)]
        )
        bits = hash_bits(values.flat, within)
        codes.append(bits.new_zeros(len(values)).index_add(0, row_index(values.lengths), bits))
    code = torch.stack(codes, 1)
    return ~(code[:, :, None] == code[:, None, :]).tril(-1).any(2)

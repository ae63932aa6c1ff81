"""DreamLIP: each sentence of a long caption is a positive, tied to the patches that it describes.

Zheng, Zhang, Wu, Lu, Ma, Jin, Chen and Shen, ECCV 2024, arXiv:2403.17007. Losses: their eq. 3
(InfoNCE with the caption and with each of K sampled sentences) and eq. 4-8 (grouping: InfoNCE
between a sentence and its group of patches). Row 104 of the catalogue. Captions should hold a
sentence a line. Of a single line, stretches are taken.

Differs:
- Captions are those of the records; the paper has three models write a short and a long one of each
  image, beside its own, and cuts them at full stops.
- Sentences: `captions` of each text, by default 8, drawn with replacement; the authors' program has
  6, without replacement where a text has as many, and never draws the last one.
- The grouping loss is of sentences, and one that was drawn twice counts once. The program takes the
  whole caption too, counts all, and pairs texts and pictures in another order than it stacked them,
  which looks like a slip.
- The threshold of a patch is one over their number, as in the paper; in the program that is one of
  its settings, and 0 the default.
- Patches go through the same linear map as the picture's vector. In the program they go through
  none; a map of their own and the second temperature stand there commented out.
- The inverse temperatures are bounded in their value; theirs by clipping parameters after a step.
- Views: a text that is taken whole is a slice of 80 to 100 %, a picture a crop of 60 to 100 %
  (`weak`); theirs are the whole text and crops of 90 to 100 %. `--views picture=plain` and the like
  change that.
- Recipe: the training script is not public; `PAPER_RECIPE` has the defaults of the program for a
  ViT. Rows are 64 on each of a number of devices that it does not say. Their encoder is a ViT-B/16
  (`--size base`) of 224 pixels with a class token, and CLIP's text transformer.
- Left out: pictures generated from captions as further views, the losses for several positives at
  once, for labels of nouns and for optimal transport that the program has beside.
- Product: `amodal map RUN --queries "a cat,a tree"` is the segmentation by texts with which the
  paper tests patches, by the cosine of patches as the grouping loss compares them, at the
  resolution of training; retrieval and zero-shot classes by `amodal evaluate`. Weights of patches
  in a group are what `amodal.objectives.grouping.group_patches` returns.
- Further fields than a picture and a text, and InfoNCE between them, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import Batch, Column, Embeddings, Ragged, Recipe, Tokens, field_of, views_of
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import alone, regions, sentences, texts_and_others, vectors
from amodal.methods.shared.shapes import field_pairs, share
from amodal.methods.shared.typed_parts import aligned_heads, field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.grouping import group_patches
from amodal.objectives.info_nce import info_nce
from amodal.objectives.packed import pad_packed, row_index

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-4,
    weight_decay=0.2,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_steps=10_000,
    clip=0.0,
    epochs=32.0,
)
"""The defaults of the authors' program, which has no size of the whole batch."""


def dreamlip(
    encoder: Encoder,
    *,
    captions: int = 8,
    weight: float = 1.0,
    threshold: float = 0.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> DreamLip:
    """InfoNCE with captions and their sentences, and between sentences and groups of patches.

    Args:
        encoder: Gets heads into a common space; needs a text field and another kind.
        captions: K, sentences drawn of each text in each step, with replacement, besides the text
            itself.
        weight: Lambda, the weight of the grouping loss (0 leaves it out).
        threshold: Scaled similarity below which a patch is not in the group; 0 for one over the
            number of patches.
        width: Width of the common space.
        temperature: Initial value of the two learned softmax temperatures.
        max_scale: Upper bound of the inverse temperatures.
    """
    texts, others = texts_and_others(encoder)
    scales = nn.ModuleDict({k: Scale(1 / temperature, most=max_scale) for k in ("whole", "group")})
    return DreamLip(
        encoder.align(width),
        texts=texts,
        others=others,
        captions=captions,
        weight=weight,
        threshold=threshold,
        scales=scales,
    )


@dataclass(frozen=True, kw_only=True)
class DreamLipFeatures(FeatureRecord):
    """Vectors of all views and, for each field and text ("image~caption"), groups of patches."""

    aligned: Columns  # source -> (N, D)
    sentences: Columns  # pair -> (N, K, D), the sentences of the rows that have both
    groups: Columns  # pair -> (N, K, D), the patches that each sentence describes, as a vector
    distinct: Columns  # pair -> (N, K) bool, see `first_occurrences`


class DreamLip(Method):
    """See `dreamlip`.

    Args:
        texts, others: The fields that are text, and those that are not.
        captions, weight, threshold: As of `dreamlip`.
        scales: "whole" of captions and sentences, "group" of sentences and groups.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        texts: Sequence[str],
        others: Sequence[str],
        captions: int,
        weight: float,
        threshold: float,
        scales: nn.ModuleDict,
    ):
        super().__init__()
        self.encoder, self.texts, self.others = encoder, tuple(texts), tuple(others)
        self.captions, self.weight, self.threshold = captions, weight, threshold
        self.scales = scales
        self.views: Mapping[str, tuple[str, ...]] = {
            f: ("weak", *["local"] * captions) if f in texts else ("weak",) for f in encoder.fields
        }

    def features(self, batch: Batch) -> DreamLipFeatures:
        context = alone(self.encoder, batch)
        z = vectors(self.encoder, context, batch.size)
        lines, groups, distinct = {}, {}, {}
        for t in self.texts if self.weight else ():
            # without the first view, the whole caption
            views = [s for s in batch.sources if field_of(s) == t][1:]
            text, first = sentences(z, views), first_occurrences([batch[s] for s in views])
            for s in self.others:
                patches = regions(self.encoder, context[s])
                a, b = shared_rows(patches, text)
                lists = patches.values[a]
                assert isinstance(lists, Ragged)
                block, present = pad_packed(lists)
                group, _ = group_patches(text.flat[b], block, present, threshold=self.threshold)
                pair, rows = f"{s}~{t}", text.rows[b]
                lines[pair], groups[pair] = Column(text.flat[b], rows), Column(group, rows)
                distinct[pair] = Column(first[b], rows)
        return DreamLipFeatures(
            size=batch.size,
            aligned=z.columns,
            sentences=lines,
            groups=groups,
            distinct=distinct,
        )

    def patch_vectors(self, batch: Batch, field: str) -> Tokens:
        """See `amodal.core.protocols.LocatesText`: patches as the grouping loss compares them."""
        tokens = alone(self.encoder, batch.only(field))[field]
        patches = field_pool(self.encoder, field).strip(tokens)
        return patches.with_x(normalize(aligned_heads(self.encoder)[field](patches.x), dim=1))

    def patch_queries(self, z_KD: Tensor, field: str) -> Tensor:
        """See `amodal.core.protocols.LocatesText`."""
        return z_KD

    def losses(self, features: DreamLipFeatures) -> dict[str, Tensor]:
        z = Embeddings(
            {s: c for s, c in features.aligned.items() if field_of(s) in self.encoder.fields},
            features.size,
        )
        whole, group = self.scales["whole"], self.scales["group"]
        losses = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / whole())
            for a, b in field_pairs(z)
            if field_of(a) in self.others and field_of(b) in self.others
        }
        grouped = {}
        for s in self.others:
            for t in self.texts:
                pair = f"{s}~{t}"
                # eq. 3: the caption itself and each of the K sentences
                per_sentence = [
                    info_nce(*z.pair(s, view), temperature=1 / whole())
                    for view in views_of(t, self.captions + 1)
                ]
                losses[f"sentences/{pair}"] = torch.stack(per_sentence).mean()
                if self.weight:
                    # eq. 4-8
                    once = features.distinct[pair].flat
                    grouped[f"group/{pair}"] = self.weight * info_nce(
                        features.groups[pair].flat[once],
                        features.sentences[pair].flat[once],
                        temperature=1 / group(),
                    )
        return share(losses) | share(grouped)


def first_occurrences(lines: Sequence[Column]) -> Tensor:
    """Mark the first occurrence of each sentence of a row.

    Sentences are drawn with replacement, and one that was drawn twice is no negative of itself.

    Args:
        lines: K columns of N lists of ids.

    Returns:
        (N, K) bool, whether a row's line k equals none of its lines before k.
    """
    codes = []
    for column in lines:
        ids = column.values
        assert isinstance(ids, Ragged)
        owner = row_index(ids.lengths)
        within = torch.arange(len(ids.flat), device=ids.flat.device) - ids.starts()[owner]
        # ids hashed with their places, so that the sum of a list tells orders apart
        bits = hash_bits(ids.flat, within)
        codes.append(bits.new_zeros(len(ids)).index_add(0, owner, bits))
    code = torch.stack(codes, 1)
    return ~(code[:, :, None] == code[:, None, :]).tril(-1).any(2)

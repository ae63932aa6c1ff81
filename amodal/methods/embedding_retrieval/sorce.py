"""SORCE: several vectors of a picture, of the whole and of its regions, so that a small thing in it
can be found by words. Liu, Xie, Chen, Li, Zhu, Zhao and Wang, 2025, arXiv:2505.24441: embeddings by
regional prompts (ReP), the score of a text the largest of its cosines with them, contrast between
regions and their captions beside that of whole captions. Row 176 of the catalogue.

Differences: where the paper asks a language model of 8B once for each region, a region here is a
cell of a grid, and its vector the mean of the tokens there, which have seen the whole picture. No
boxes are needed: a text is drawn to the region that fits it best. Any field may ask, and of any
other field (sound, series, ...) the cells lie along its own axes. Texts should hold a sentence a
line. What survives is the encoder, which gives the several vectors to an index
(`amodal.nn.multi_vector`); `amodal search` says which region was found, and the protocol
`small_objects` is the benchmark's question. The benchmark's own pictures (SORCE-1K) are not
bundled."""

from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged
from amodal.core.column import shared_rows
from amodal.methods.contract import Features
from amodal.methods.shared.matching import words_of
from amodal.methods.shared.regions import vectors
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector, per_source, region_vectors
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.late_interaction import late_interaction
from amodal.objectives.score_nce import score_nce


def sorce(
    encoder: Encoder,
    *,
    words: str = "",
    grid: int = 2,
    weight: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """words: the field that asks, the first text unless given; grid: cells along each axis of a
    value, beside the whole (1: the whole alone, one vector as in CLIP); weight: of the loss between
    a line and the regions (0 leaves it out); width: of the common space; temperature: where the
    learned softmax temperature starts; max_scale: bound of its inverse."""
    if grid < 1:
        raise AmodalError(f"a grid has at least one cell along each axis, not {grid}")
    text, others = words_of(two_fields(encoder), words)
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z):
        fields = Embeddings({s: z[s] for s in z if "/" not in s}, z.size)
        whole = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
            for a, b in field_pairs(fields)
        }
        found = {
            f"region/{f}": found_in(z[f"{text}:2"], z[f"{f}/places"], 1 / scale())
            for f in others
            if weight
        }
        return share(whole) | {name: weight * term for name, term in share(found).items()}

    several = MultiVector("regions", text, grid) if grid > 1 else None
    views = {f: ("weak", "local") if f == text else ("weak",) for f in encoder.fields}
    aligned = encoder.align(width, multi_vector=several)
    return WithPlaces(aligned, objective, views=views, learned=scale, grid=grid, others=others)


def found_in(asks: Column, parts: Column, temperature: float | Tensor) -> Tensor:
    """InfoNCE between vectors (N, D) and lists of vectors, by the largest cosine, over the rows
    that have both."""
    i, j = shared_rows(asks, parts)
    own = parts.values[j]

    def scores(query_tD):
        one = Ragged(query_tD, i.new_ones(len(query_tD)))
        return late_interaction(one, own)

    return score_nce(scores, asks.values[i], temperature=temperature)


class WithPlaces(Towers):
    """Features are the vectors of all sources and, as `FIELD/places`, several of each field that is
    asked for."""

    def __init__(self, *args, grid: int, others: list[str], **kwargs):
        super().__init__(*args, **kwargs)
        self.grid, self.others = grid, others

    def features(self, batch: Batch) -> Features:
        context = per_source(self.encoder, batch)
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        several = {f: region_vectors(self.encoder, context, f, self.grid) for f in self.others}
        return Features(
            columns | {f"{f}/places": column for f, column in several.items()}, batch.size
        )

"""SORCE: several vectors of a picture, of the whole and of its regions, so that a small thing in it
can be found by words. Liu, Xie, Chen, Li, Zhu, Zhao and Wang, 2025, arXiv:2505.24441: embeddings by
regional prompts (ReP), the score of a text the largest of its cosines with them. Row 176 of the
catalogue.

What is saved is the encoder, which gives the vectors to an index (`amodal.nn.multi_vector`);
`amodal search` says which region was found, and the protocol `small_objects` is the benchmark's
question.

Differs:

- encoder: one of the sizes or backbones. The paper's is E5-V, LLaVA-NeXT on Llama 3 of 8B, which is
  asked for one word about the picture and once more about each corner. The five vectors of the
  authors' evaluation are the five of `--method.grid 2`; theirs about main thing, background and
  details, which are no places, are not here.
- region: the mean of the tokens in a cell of a grid, which have seen the whole picture, in place of
  an answer about it. Cells do not overlap; "the left upper corner" has no edge. Without boxes a
  text is drawn to the region that fits it best.
- loss: the authors published the evaluation and a model, not its training. Here it is InfoNCE in
  both directions, of whole values in every two fields, and of a line of the text with the regions
  of each other field, both means over their pairs and added. One learned temperature, CLIP's.
- texts should hold a sentence a line: the second view of the queries, `local`, is one line.
- data: any field may hold the queries, and of any other field (sound, series, ...) the cells lie
  along its own axes. SORCE-1K is not bundled; its three levels, where the same picture is cut out
  closer, are no fields of the protocol, which goes by the size of what is asked for.
- recipe: none is published.
- open: E5-V (Llama 3 of 8 billion weights) asked about each region, and the training, which is not
  published. Waits for a language model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged
from amodal.core.column import both
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, ragged, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector, region_vectors
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.late_interaction import late_interaction
from amodal.objectives.score_nce import score_nce


def sorce(
    encoder: Encoder,
    *,
    text_field: str = "",
    grid: int = 2,
    weight: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Sorce:
    """Build SORCE.

    Args:
        encoder: Of at least two fields.
        text_field: The field of queries (by default the first of text).
        grid: Cells along each axis of a value, beside the whole (1: the whole alone, one vector as
            in CLIP).
        weight: Of the loss between a line and the regions (0 leaves it out).
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    if grid < 1:
        raise AmodalError(f"a grid has at least one cell along each axis, not {grid}")
    query_field, record_fields = pick_text_field(two_fields(encoder), text_field)
    multi_vector = MultiVector("regions", query_field, grid) if grid > 1 else None
    return Sorce(
        encoder.align(width, multi_vector=multi_vector),
        Scale(1 / temperature, most=max_scale),
        query_field=query_field,
        record_fields=record_fields,
        grid=grid,
        weight=weight,
    )


def region_loss(queries: Column, regions: Column, temperature: float | Tensor) -> Tensor:
    """InfoNCE between vectors and lists of vectors, by the largest cosine.

    Args:
        queries: (N, D).
        regions: Lists of vectors; only rows that have both count.
        temperature: Of the softmax.
    """
    query, region = both(queries, regions)

    def scores(query_tD: Tensor) -> Tensor:
        # with one vector a query, late interaction is the largest of its cosines with the regions
        single = Ragged(query_tD, query.rows.new_ones(len(query_tD)))
        return late_interaction(single, ragged(region))

    return score_nce(scores, query.flat, temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class RegionFeatures(FeatureRecord):
    """Vectors of values and of their regions.

    Args:
        vectors: source -> (N, D).
        regions: field -> lists of vectors, of the fields of records.
    """

    vectors: Columns
    regions: Columns


class Sorce(Method):
    """Contrast between fields, and between lines of text and regions.

    Args:
        encoder: Aligned.
        scale: The learned inverse temperature.
        query_field: The field of queries.
        record_fields: All others.
        grid: Cells along each axis of a value.
        weight: Of the loss between a line and the regions.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        query_field: str,
        record_fields: list[str],
        grid: int,
        weight: float,
    ):
        super().__init__()
        self.encoder, self.learned = encoder, scale
        self.query_field, self.record_fields = query_field, record_fields
        self.grid, self.weight = grid, weight
        self.views = {
            f: ("weak", "local") if f == query_field else ("weak",) for f in encoder.fields
        }

    def features(self, batch: Batch) -> RegionFeatures:
        context = alone(self.encoder, batch)
        z = vectors(self.encoder, context, batch.size)
        regions = {
            f: region_vectors(self.encoder, context, f, self.grid) for f in self.record_fields
        }
        return RegionFeatures(size=batch.size, vectors=z.columns, regions=regions)

    def losses(self, features: RegionFeatures) -> dict[str, Tensor]:
        z, scale = Embeddings(dict(features.vectors), features.size), self.learned
        whole = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
            for a, b in field_pairs(z)
        }
        # the second view of the queries, "local": a line of the text
        line, regions = z[f"{self.query_field}:2"], {}
        for f in self.record_fields if self.weight else ():
            regions[f"region/{f}"] = region_loss(line, features.regions[f], 1 / scale())
        return share(whole) | {name: self.weight * loss for name, loss in share(regions).items()}

    def logit_scale(self) -> Scale:
        """The learned inverse temperature of cosines."""
        return self.learned

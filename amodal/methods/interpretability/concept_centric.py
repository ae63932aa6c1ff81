"""Concepts first: a space of boxes is learnt from annotations of records; then each field learns,
by itself, to place its values there.

Geng & Tang, 2024, arXiv:2412.13847: a concept space of probabilistic boxes, frozen; a projection
model for each modality, trained on the entailment of annotated concepts; image-text matching and
questions answered from entailments alone. Row 130 of the catalogue.

Concepts are the categories of a table and, above them, its columns; the space is learnt before the
first step, from how often they go together in the records to train on. Aligned vectors are
readings, P(concept | value), so that each dimension has a name. No field needs another one but the
table.

Differs:

- much is reconstructed, because no program of the authors was read: widths, the smoothing of boxes
  (sides by softplus, corners by log-sum-exp), where boxes begin, Adam for the space.
- concepts: two levels, columns and categories, from a table. The paper also has attributes and
  objects of CLEVR, COCO and GQA and what is known of them; here knowledge that the records do not
  show cannot be given. Numbers in the table are ignored.
- negatives: all other known categories of a record's columns, instead of a sample.
- the table is projected too, as a field like the others.
- encoder: one of the sizes from a random start, or a backbone, with a perceptron that makes a box
  of the mean of its tokens. The paper has a vision transformer and BERT.
- matching: retrieval compares readings by their cosine, not by the paper's probability of
  entailment of one box by another.
- questions: the category of a column that follows most from a value (`predict_category`, in Python
  alone); nothing reads a question in words.
- recipe: the plain one of a size. Views are `weak`, of the table `plain`.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`,
  attributes and objects of pictures, knowledge that records do not show, and questions in words.
  Waits for the paper's text, and work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, field_of, unknown
from amodal.core.column import both
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.concepts import TableConcepts
from amodal.methods.shared.shapes import share, two_fields
from amodal.methods.shared.typed_parts import aligned_heads, table_modality
from amodal.nn.encoder import Encoder
from amodal.nn.heads.boxes import ConceptHead, learn_boxes
from amodal.objectives.entailment import bce_from_log_prob


def concept_centric(
    encoder: Encoder,
    *,
    concepts: str = "",
    dims: int = 16,
    softness: float = 0.1,
    steps: int = 1000,
) -> Concepts:
    """Build concept-centric learning.

    Args:
        encoder: Of a table with categories and at least one other field.
        concepts: The table whose categories are the concepts (by default the first that has any).
        dims: Of the concept space.
        softness: Of boxes, see `amodal.nn.heads.boxes`.
        steps: In which the concept space is learnt, before all others.
    """
    rows = [f for f, m in two_fields(encoder).fields.items() if m.is_row]
    tables = [f for f in rows if table_modality(encoder, f).categories]
    if not tables:
        raise AmodalError(
            "concept_centric needs a table with categories, the concepts, and there are only "
            f"{', '.join(encoder.fields)}"
        )
    if concepts and concepts not in tables:
        raise unknown("table with categories", concepts, tables, "It should hold the concepts.")
    return Concepts(encoder, concepts or tables[0], dims=dims, softness=softness, steps=steps)


@dataclass(frozen=True, kw_only=True)
class ConceptFeatures(FeatureRecord):
    """Readings and annotations.

    Args:
        readings: source -> (N, K) log P(concept | value).
        annotations: (N, K) 1 or 0, NaN where the table has no value.
    """

    readings: Columns
    annotations: Column


def concept_heads(encoder: Encoder) -> dict[str, ConceptHead]:
    """field -> its concept head."""
    return {f: cast(ConceptHead, head) for f, head in aligned_heads(encoder).items()}


class Concepts(Method):
    """Values as points of a frozen space of concept boxes.

    Args:
        encoder: Gets a concept head for each field.
        field: The table of concepts.
        dims: Of the concept space.
        softness: Of boxes.
        steps: In which the concept space is learnt.
    """

    def __init__(self, encoder: Encoder, field: str, *, dims: int, softness: float, steps: int):
        super().__init__()
        self.field, self.concepts = field, TableConcepts(table_modality(encoder, field))
        self.dims, self.softness, self.steps = dims, softness, steps
        self.views = {f: ("plain" if f == field else "weak",) for f in encoder.fields}
        head = partial(ConceptHead, dims=dims, softness=softness)
        self.encoder = encoder.align(len(self.concepts.names), head=head)

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Learn the boxes from how often concepts occur together."""
        cells = (batch[self.field].flat for batch in records)
        boxes = learn_boxes(
            self.concepts.conditional_probabilities(cells),
            dims=self.dims,
            softness=self.softness,
            steps=self.steps,
        )
        for head in concept_heads(self.encoder).values():
            head.set_concepts(*boxes)

    def features(self, batch: Batch) -> ConceptFeatures:
        z, table = self.encoder.features(batch), batch[self.field]
        heads = concept_heads(self.encoder)
        return ConceptFeatures(
            size=batch.size,
            readings={
                s: Column(heads[field_of(s)].log_membership(z[s].flat), z[s].rows)
                for s in z.sources
            },
            annotations=Column(self.concepts.annotations(table.flat), table.rows),
        )

    def losses(self, features: ConceptFeatures) -> dict[str, Tensor]:
        terms = {}
        for s, column in features.readings.items():
            reading, annotation = both(column, features.annotations)
            terms[f"entail/{s}"] = bce_from_log_prob(reading.flat, annotation.flat)
        return share(terms)

    @torch.no_grad()
    def predict_category(self, batch: Batch, column: str) -> dict[str, Column]:
        """The category that follows most from each value.

        Args:
            batch: B rows.
            column: Of the table.

        Returns:
            field -> (N,) the number of the category.

        Raises:
            AmodalError: For a column that is no concept.
        """
        if column not in self.concepts.category_index:
            raise unknown("column of concepts", column, self.concepts.category_index)
        z, index = self.encoder(batch), self.concepts.category_index[column]
        return {s: Column(z[s].values[:, index].argmax(1), z[s].rows) for s in z if s != self.field}

"""Concepts first: a space of boxes is learnt from what is said of records; then each field learns,
by itself, to place its values there. Geng & Tang, 2024, arXiv:2412.13847: a concept space of
probabilistic boxes, frozen; a projection model for each modality, trained on the entailment of
annotated concepts; image-text matching and questions answered from entailments alone. Row 130 of
the catalogue.

Concepts are the categories of a table and, above them, its columns; the space is learnt before the
first step, from how often they go together in the records to train on. Aligned vectors are
readings, P(concept | value), so that each dimension has a name. No field needs another one but the
table. What differs or is reconstructed: widths, how boxes are smoothed, all known categories of a
record's columns as negatives instead of a sample, and the score of a pair (`agreement`). Numbers in
the table are passed over."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, field_of, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, Method
from amodal.methods.shared.concepts import TableConcepts
from amodal.methods.shared.shapes import share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.boxes import ConceptHead, learn_boxes
from amodal.objectives.entailment import bce_of_log

SAID = "said/concepts"


def concept_centric(
    encoder: Encoder,
    *,
    concepts: str = "",
    dims: int = 16,
    softness: float = 0.1,
    steps: int = 1000,
) -> Concepts:
    """concepts: the table whose categories are the concepts, the first that has any unless given;
    dims: of the concept space; softness: of boxes, see `amodal.nn.heads.boxes`; steps: that the
    concept space is learnt in, before all others."""
    tables = [f for f, m in two_fields(encoder).fields.items() if m.is_row and m.categories]
    if not tables:
        raise AmodalError(
            f"concept_centric needs a table with categories, the concepts, and there are only {', '.join(encoder.fields)}"
        )
    if concepts and concepts not in tables:
        raise unknown("table with categories", concepts, tables, "It was to hold the concepts.")
    return Concepts(encoder, concepts or tables[0], dims, softness, steps)


class Concepts(Method):
    """Features: log readings of each field, and `said/concepts` (N, K): 1 or 0 for what the table
    says, NaN where it says nothing."""

    def __init__(self, encoder: Encoder, field: str, dims: int, softness: float, steps: int):
        super().__init__()
        self.field, self.concepts = field, TableConcepts(encoder.fields[field])
        self.space = {"dims": dims, "softness": softness, "steps": steps}
        self.views = {f: ("plain" if f == field else "weak",) for f in encoder.fields}
        head = partial(ConceptHead, dims=dims, softness=softness)
        self.encoder = encoder.align(len(self.concepts.names), head=head)

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        boxes = learn_boxes(
            self.concepts.conditional_probabilities(batch[self.field].values for batch in records),
            **self.space,
        )
        for head in self.encoder.heads.values():
            head.holds(*boxes)

    def features(self, batch: Batch) -> Features:
        seen, heads = self.encoder.features(batch), self.encoder.heads
        columns = {
            s: Column(heads[field_of(s)].log_reading(seen[s].values), seen[s].rows)
            for s in seen.sources
        }
        columns[SAID] = Column(
            self.concepts.annotations(batch[self.field].values), batch[self.field].rows
        )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        terms = {}
        for s in (s for s in features if s != SAID):
            at, of = shared_rows(features[s], features[SAID])
            terms[f"entail/{s}"] = bce_of_log(features[s].values[at], features[SAID].values[of])
        return share(terms)

    @torch.no_grad()
    def ask(self, batch: Batch, column: str) -> dict[str, Column]:
        """field -> (N,) which of the column's categories follows most from the value, as its place
        in their order."""
        if column not in self.concepts.category_index:
            raise unknown("column of concepts", column, self.concepts.category_index)
        seen, at = self.encoder(batch), self.concepts.category_index[column]
        return {
            s: Column(seen[s].values[:, at].argmax(1), seen[s].rows)
            for s in seen
            if s != self.field
        }

"""CLaMR: a record has a vector for every token of every field, each encoded together with the
others, and each word of a query is scored with its best match. Wan, Wang, Stengel-Eskin, Cho and
Bansal, 2025, arXiv:2506.06144: joint encoding, late interaction over all fields, and the
modality-aware loss (in-batch contrast of records, and of the fields of records). Row 162 of the
catalogue.

Differences: encoders begin from nothing or from pretrained backbones, not from a language model of
3B. Any field may hold the queries; the others are the record, whatever it has of them. Scores are
means over a query's tokens and not sums, so that one temperature serves short and long ones. Where
the paper has queries written about a named field, a `label` may name it; without one it is the
field that fits its record best. What is saved is the encoder, which gives the tokens of records and
of queries to an index (`amodal.nn.multi_vector`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Ragged, unknown
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import ragged, two_fields
from amodal.methods.shared.supervised import label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector, token_vectors
from amodal.nn.scale import Scale
from amodal.objectives.late_interaction import field_interaction
from amodal.objectives.modality_choice import modality_choice

ENCODER = {"trunk": "joint"}


def clamr(
    encoder: Encoder,
    *,
    text_field: str = "",
    label: str = "",
    fields: str = "",
    weight: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Clamr:
    """Build CLaMR.

    Args:
        encoder: With a joint trunk.
        text_field: The field of queries (by default the first of text).
        label: Of the data: the field that a query is about.
        fields: The fields that the classes of `label` stand for, in order and with commas between
            (by default all others).
        weight: Of the loss between fields (0 leaves it out).
        width: Of the vectors.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    query_field, record_fields = pick_text_field(two_fields(encoder), text_field)
    classes = [s.strip() for s in fields.split(",")] if fields else record_fields
    for s in classes:
        if s not in record_fields:
            raise unknown("field of a record", s, record_fields)
    return Clamr(
        encoder.align(width, multi_vector=MultiVector("tokens", query_field)),
        Scale(1 / temperature, most=max_scale),
        query_field=query_field,
        record_fields=record_fields,
        label=label if weight else "",
        classes=classes,
        weight=weight,
    )


@dataclass(frozen=True, kw_only=True)
class TokenFeatures(FeatureRecord):
    """Token vectors of queries and records.

    Args:
        tokens: field -> lists of unit vectors.
        label: (N,) classes of the label: the field that a query is about.
    """

    tokens: Columns
    label: Column | None = None


class Clamr(Method):
    """Late interaction over all fields of a record.

    Args:
        encoder: Gives a vector for each token.
        scale: The learned inverse temperature.
        query_field: The field of queries.
        record_fields: All others.
        label: The field that a query is about; "" to take the one that fits best.
        classes: The fields that the classes of the label stand for.
        weight: Of the loss between fields.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        query_field: str,
        record_fields: list[str],
        label: str,
        classes: list[str],
        weight: float,
    ):
        super().__init__()
        self.encoder, self.learned = encoder, scale
        self.query_field, self.record_fields = query_field, record_fields
        self.labels, self.classes, self.weight = (label,) if label else (), classes, weight

    def features(self, batch: Batch) -> TokenFeatures:
        label = label_columns(batch, self.labels)
        return TokenFeatures(
            size=batch.size,
            tokens=token_vectors(self.encoder, batch, self.query_field).columns,
            label=next(iter(label.values()), None),
        )

    def losses(self, features: TokenFeatures) -> dict[str, Tensor]:
        tokens, size = features.tokens, features.size
        whole, by_field, rows = interaction_scores(
            tokens, size, self.query_field, self.record_fields
        )
        scale = self.learned
        terms = {"records": modality_choice(whole[:, :, None], temperature=1 / scale())}
        if self.weight:
            about = torch.full((size,), -1, device=rows.device)
            if features.label is not None:
                fields = self.labelled_fields(features.label.flat.long())
                about = about.index_copy(0, features.label.rows, fields)
            terms["fields"] = self.weight * modality_choice(
                by_field, temperature=1 / scale(), about_N=about[rows]
            )
        return terms

    def labelled_fields(self, class_N: Tensor) -> Tensor:
        """The number of the field that each query is about.

        Args:
            class_N: Classes of the label.

        Raises:
            AmodalError: For more classes than fields.
        """
        most = int(class_N.max()) + 1 if len(class_N) else 0
        if most > len(self.classes) or len(class_N) and class_N.min() < 0:
            raise AmodalError(
                f"the label {self.labels[0]!r} has {most} classes or more, and they stand for "
                f"{len(self.classes)} fields: {', '.join(self.classes)}. Give --method.fields a "
                "field for each class, in the order of their names, or another --method.label, or "
                "none"
            )
        order = torch.tensor([self.record_fields.index(s) for s in self.classes])
        return order.to(class_N.device)[class_N]


def interaction_scores(
    tokens: Columns, size: int, query_field: str, record_fields: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Score every query with every record.

    Args:
        tokens: field -> lists of unit vectors.
        size: Rows of the batch.
        query_field: The field of queries.
        record_fields: F fields of records.

    Returns:
        (N, N) scores of queries with records, (N, N, F) with each field of records, and (N,) the
        rows that have a query and any field of a record.
    """
    has_record = torch.stack([tokens[s].present(size) for s in record_fields]).any(0)
    queries = tokens[query_field]
    index = has_record[queries.rows].nonzero().squeeze(1)
    rows, query, lists = queries.rows[index], ragged(queries)[index], []
    for s in record_fields:
        lengths = rows.new_zeros(size).index_copy(0, tokens[s].rows, ragged(tokens[s]).lengths)
        lists.append(Ragged(tokens[s].flat, lengths)[rows])
    whole, by_field = field_interaction(query, lists)
    count = query.lengths[:, None]  # means over the tokens of a query, not sums
    return whole / count, by_field / count[:, :, None], rows

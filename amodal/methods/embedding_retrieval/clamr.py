"""CLaMR: a record has a vector for every token of every field, each encoded together with the
others, and each token of a query is scored with its best match. Wan, Wang, Stengel-Eskin, Cho and
Bansal, 2025, arXiv:2506.06144: joint encoding (3.2), late interaction (equation 1), and InfoNCE
from queries to records (2), whose scores in training are those of the field that fits best (3).
Row 162 of the catalogue.

What is saved is the encoder, which gives the tokens of records and of queries to an index
(`amodal.nn.multi_vector`); there scores are those of equation 1, as in the paper.

Differs:

- encoder: one of the sizes, from nothing, or a backbone for each field below a joint trunk. The
  paper's is Qwen2.5-VL of 3B, quantised to 4 bits, with LoRA (rank and alpha 128, dropout 0.1) in
  every linear map of attention and MLP; its fields are one sequence of text and frames in its
  prompt. So a field is told from others by a learned offset here, by words there ("ASR: ...").
- data: any field may hold the queries, and the others are the record, whatever it has of them. The
  paper has ten frames of 224 pixels, speech, writing and metadata with up to 256 tokens each (the
  authors' program: 512), and 367,644 queries that a language model wrote about one of them.
- queries: five placeholder tokens that the paper appends to each are left out.
- scores are means over a query's tokens, as in the authors' program; the paper writes sums.
- temperature: learned, as the paper says, and begins at CLIP's 0.07, with its bound. The authors'
  program fixes it at 0.02.
- head: one linear map a field, without a bias; theirs is one of all tokens, with one.
- `--method.contrast positives` and `negatives` are equations 4 and 5 of appendix A.1, which the
  paper found to be worse than 2 (nDCG@10 .568 and .548 for .585). A `label` says which field a
  query is about; queries without one, or about a field that their record lacks, count by equation
  2. The authors' program for 5 has the score of the whole record in place of the right field's.
- recipe: theirs has AdamW with 8 bits.
- open: video with speech, and Qwen2.5-VL tuned by LoRA as the encoder of all fields in one
  sequence. Waits for video, and a language model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Ragged, Recipe, unknown
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
SCORES = ("fields", "tokens")
CONTRASTS = ("records", "positives", "negatives")
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-5,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="linear",
    warmup=0.1,
    batch_size=16,
    epochs=1,
)
"""Of section 5 and the authors' command for MultiVENT 2.0++; of MSR-VTT five epochs."""


def clamr(
    encoder: Encoder,
    *,
    text_field: str = "",
    score: str = "fields",
    contrast: str = "records",
    label: str = "",
    fields: str = "",
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Clamr:
    """Build CLaMR.

    Args:
        encoder: With a joint trunk.
        text_field: The field of queries (by default the first of text).
        score: Of a query and a record in training: "fields", the late interaction with the field
            that fits best (equation 3), or "tokens", with all tokens of the record (1).
        contrast: "records" (2), "positives" (4), where the score with its own record is that of the
            field that `label` names, or "negatives" (5), where all other fields are negatives too.
        label: Of the data: the field that a query is about.
        fields: The fields that the classes of `label` stand for, in order and with commas between
            (by default all others).
        width: Of the vectors.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.

    Raises:
        AmodalError: For a name that is none, and for a label without a contrast that needs it or
            the other way round.
    """
    if score not in SCORES:
        raise unknown("score of clamr", score, SCORES)
    if contrast not in CONTRASTS:
        raise unknown("contrast of clamr", contrast, CONTRASTS)
    if bool(label) != (contrast != "records"):
        raise AmodalError(
            "contrast='positives' and 'negatives' of clamr need a label that says which field a "
            f"query is about, and 'records' uses none; got contrast={contrast!r}, label={label!r}. "
            "Give --method.label NAME with one of the two, or neither"
        )
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
        score=score,
        contrast=contrast,
        label=label,
        classes=classes,
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
        score, contrast: See `clamr`.
        label: The field that a query is about; "" for none.
        classes: The fields that the classes of the label stand for.
    """

    min_batch_size = 2
    views = ("plain",)

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        query_field: str,
        record_fields: list[str],
        score: str,
        contrast: str,
        label: str,
        classes: list[str],
    ):
        super().__init__()
        self.encoder, self.learned = encoder, scale
        self.query_field, self.record_fields = query_field, record_fields
        self.score, self.contrast = score, contrast
        self.labels, self.classes = (label,) if label else (), classes

    def features(self, batch: Batch) -> TokenFeatures:
        label = label_columns(batch, self.labels)
        return TokenFeatures(
            size=batch.size,
            tokens=token_vectors(self.encoder, batch, self.query_field).columns,
            label=next(iter(label.values()), None),
        )

    def losses(self, features: TokenFeatures) -> dict[str, Tensor]:
        whole, by_field, rows = interaction_scores(
            features.tokens, features.size, self.query_field, self.record_fields
        )
        loss = modality_choice(
            by_field.amax(2) if self.score == "fields" else whole,
            by_field,
            modality_N=self.fields_asked(features)[rows],
            temperature=1 / self.learned(),
            modality_negatives=self.contrast == "negatives",
        )
        return {"records": loss}

    def fields_asked(self, features: TokenFeatures) -> Tensor:
        """(B,) int64: the number of the field that the query of each row is about, -1 if that is
        not known."""
        asked = torch.full((features.size,), -1, dtype=torch.int64)
        if features.label is None:
            return asked.to(self.learned.log.device)
        fields = self.labelled_fields(features.label.flat.long())
        return asked.to(fields.device).index_copy(0, features.label.rows, fields)

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

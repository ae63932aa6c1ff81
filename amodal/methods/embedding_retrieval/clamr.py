"""CLaMR: a record keeps a vector of every token of every field, read in company of the others, and
each word of a query finds its best. Wan, Wang, Stengel-Eskin, Cho and Bansal, 2025,
arXiv:2506.06144: joint encoding, late interaction over all fields, and the modality-aware loss
(in-batch contrast of records, and of the fields of records). Row 162 of the catalogue.

Differences: encoders begin from nothing or from given backbones, not from a language model of 3B.
Any field may ask; the others are the record, whatever it has of them. Scores are means over a
query's tokens and not sums, so that one temperature serves short and long ones. Where the paper has
queries written about a named field, a `label` may name it; without one the field that fits its own
record best is taken for it. What survives is the encoder, which gives the tokens of records and of
queries to an index (`amodal.nn.multi_vector`)."""

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Ragged, unknown
from amodal.methods.contract import Features
from amodal.methods.shared.matching import words_of
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector, token_vectors
from amodal.nn.scale import Scale
from amodal.objectives.late_interaction import field_interaction
from amodal.objectives.modality_choice import modality_choice

ENCODER = {"trunk": "joint"}


def clamr(
    encoder: Encoder,
    *,
    words: str = "",
    label: str = "",
    fields: str = "",
    weight: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """words: the field that asks, the first text unless given; label: of the data, which field a
    query is about; fields: the fields that its classes stand for, in order and with commas between,
    all others unless given; weight: of the loss between fields (0 leaves it out); width: of the
    vectors; temperature: where the learned softmax temperature starts; max_scale: bound of its
    inverse."""
    text, others = words_of(two_fields(encoder), words)
    classes = [s.strip() for s in fields.split(",")] if fields else others
    for s in classes:
        if s not in others:
            raise unknown("field of a record", s, others)
    order = torch.tensor([others.index(s) for s in classes])
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z):
        whole, each, rows = compared(z, text, others)
        losses = {"records": modality_choice(whole[:, :, None], temperature=1 / scale())}
        if weight:
            about = torch.full((z.size,), -1, device=rows.device)
            if label:
                known = meant(order.to(rows.device), z["about"].values.long(), label, classes)
                about = about.index_copy(0, z["about"].rows, known)
            losses["fields"] = weight * modality_choice(
                each, temperature=1 / scale(), modality_N=about[rows]
            )
        return losses

    method = Clamr(
        encoder.align(width, multi_vector=MultiVector("tokens", text)), objective, learned=scale
    )
    method.text, method.others, method.labels = text, others, (label,) if label and weight else ()
    return method


def meant(order: Tensor, modality_N: Tensor, label: str, classes: list[str]) -> Tensor:
    """(N,) the field that each query is about, of the numbers of its label's classes. Raises
    AmodalError for more classes than fields."""
    most = int(modality_N.max()) + 1 if len(modality_N) else 0
    if most > len(classes) or len(modality_N) and modality_N.min() < 0:
        raise AmodalError(
            f"the label {label!r} has {most} classes or more, and they stand for {len(classes)} fields: {', '.join(classes)}. Give "
            "--method.fields a field for each class, in the order of their names, or another --method.label, or none"
        )
    return order[modality_N]


def compared(z: Features, text: str, others: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """(N, N) and (N, N, F): how well query i fits record j, and each of its fields; (N,) the rows
    that have a query and some field."""
    there = torch.stack([z[s].present(z.size) for s in others]).any(0)
    asks = z[text]
    kept = there[asks.rows].nonzero().squeeze(1)
    rows, query, lists = asks.rows[kept], asks.values[kept], []
    for s in others:
        lengths = rows.new_zeros(z.size).index_copy(0, z[s].rows, z[s].values.lengths)
        lists.append(Ragged(z[s].values.flat, lengths)[rows])
    whole, each = field_interaction(query, lists)
    count = query.lengths[:, None]
    return whole / count, each / count[:, :, None], rows


class Clamr(Towers):
    """Features are the tokens of queries and of records, and what each query is about where a label
    tells it."""

    def features(self, batch: Batch) -> Features:
        columns = dict(token_vectors(self.encoder, batch, self.text).columns)
        if self.labels:
            if self.labels[0] not in batch.labels:
                raise unknown("label of this batch", self.labels[0], batch.labels)
            columns["about"] = batch.labels[self.labels[0]]
        return Features(columns, batch.size)

    def logit_scale(self) -> None:
        """None: records are matched token by token and not by the cosine of two vectors."""

"""CLIPPINGS: records of one thing are linked by what they show and what they say together, in one
pooled vector. Arora, Yang, Jheng and Dell, 2023, arXiv:2304.03464. First, without labels, CLIP's
loss between the fields of a record; then, where a label says which records are of one thing,
supervised contrast (SupCon) of the pooled vectors, in batches of look-alikes. Row 48 of the
catalogue. Linking itself is `amodal.evaluate.linkage`: nearest exemplar with a no-match threshold,
or single-linkage clusters.

Differences: any fields (those that are not words share the weight of the image; a record is pooled
from what it has). Hard negatives are groups of classes that the model so far finds alike, for
batches to be drawn from, where the paper draws an anchor's nearest neighbours. The two stages of
training are one run. The paper's perceptron in place of the mean is left out, as it is from its
final results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.hard_batches import similarity_groups
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.sup_con import sup_con


def clippings(
    encoder: Encoder,
    *,
    label: str = "",
    words: str = "",
    image_weight: float = 0.5,
    unlabelled: float = 0.5,
    group: int = 126,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    label_temperature: float = 0.1,
) -> Clippings:
    """label: of the data, which records are of one thing; without it there is no second stage;
    words: the field that reads, the first text unless given; image_weight: of the other fields in
    the pooled vector, the words have the rest; unlabelled: share of the steps before labels are
    used (0: none); group: about how many labelled records that look alike, when labels are first
    used, batches are drawn from, best the batch (0: from all that have a label); width: of the
    common space; temperature: where the learned softmax temperature between fields starts;
    max_scale: bound of its inverse; label_temperature: of supervised contrast."""
    if not 0 <= image_weight <= 1 or not 0 <= unlabelled < 1:
        raise AmodalError(
            f"image_weight is from 0 to 1 and unlabelled from 0 to below 1, not {image_weight} and {unlabelled}"
        )
    text, others = pick_text_field(two_fields(encoder), words)
    method = Clippings(encoder.align(width), Scale(1 / temperature, most=max_scale))
    method.weights = {text: 1 - image_weight} | dict.fromkeys(others, image_weight / len(others))
    method.labels, method.heat, method.group = (label,) if label else (), label_temperature, group
    method.stages = (unlabelled, 1.0) if label and unlabelled else (1.0,)
    method.refresh_first = bool(label) and not unlabelled
    method.on_stage_start(0)
    return method


def pooled(z: Embeddings, weights: dict[str, float]) -> Column:
    """One unit vector (D,) for each row that has a field of any weight: along the weighted sum of
    the row's unit vectors."""
    sources = [s for s in z.sources if weights.get(field_of(s), 0.0)]
    total = z[z.sources[0]].values.new_zeros(z.size, z[z.sources[0]].values.shape[1])
    there = torch.zeros(z.size, dtype=torch.bool, device=total.device)
    for s in sources:
        total = total.index_add(
            0, z[s].rows, weights[field_of(s)] * normalize(z[s].values, dim=1).to(total.dtype)
        )
        there = there | z[s].present(z.size)
    rows = there.nonzero().squeeze(1)
    return Column(normalize(total[rows], dim=1), rows)


class Clippings(StagedMethod):
    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder: Encoder, scale: Scale):
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def on_stage_start(self, stage: int) -> None:
        self.supervised = bool(self.labels) and stage == len(self.stages) - 1

    @torch.no_grad()
    def refresh(self, stage: int, see: Callable[[], Embeddings]) -> Tensor | None:
        seen, device = see(), self.scale.log.device
        every = Column(torch.full((seen.size,), -1), torch.arange(seen.size))
        known = seen.columns.get(f"label/{self.labels[0]}", every)
        if not len(known):
            raise AmodalError(
                f"no record to train on has the label {self.labels[0]!r} that clippings is to learn from"
            )
        if not self.group:
            return every.values.index_fill(0, known.rows, 0) if len(known) < seen.size else None
        fields = {s: c.to(device) for s, c in seen.columns.items() if not s.startswith("label/")}
        one = pooled(self.encoder.project(Embeddings(fields, seen.size)), self.weights)
        vectors = one.values.new_zeros(seen.size, one.values.shape[1]).index_copy(
            0, one.rows, one.values
        )
        known = known.to(device)
        groups = similarity_groups(vectors[known.rows], known.values.long(), self.group)
        return every.values.index_copy(0, known.rows.cpu(), groups.cpu())

    def features(self, batch: Batch) -> Features:
        columns = dict(self.encoder(batch).columns)
        if self.supervised:
            if self.labels[0] not in batch.labels:
                raise unknown("label of this batch", self.labels[0], batch.labels)
            columns["label"] = batch.labels[self.labels[0]]
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({s: features[s] for s in features if s != "label"}, features.size)
        if not self.supervised:
            heat = 1 / self.scale()
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=heat)
                    for a, b in field_pairs(z)
                }
            )
        one, label = pooled(z, self.weights), features["label"]
        at, at_label = shared_rows(one, label)
        return {"sup_con": sup_con(one.values[at], label.values[at_label], temperature=self.heat)}

"""Self-attention over the tokens of all sensors, some of them left out while training, so that it
goes on working when a sensor dies. Ma, Sanchez, Nikan, Upadhyay, Atote and Guha, CVPR 2023
workshops, arXiv:2304.06370: fusion by masked self-attention, SuMoCo (supervised contrast with the
queue of MoCo), then a classifier with focal loss. Row 56 of the catalogue. The fusions it is
compared with: `fuse`.

What differs. Any fields, with this library's trunks for the 3-D ResNets. The classifier is trained
at the end on frozen vectors (theirs beside the contrast, on vectors without gradient). Contrast is
with the keys of the batch and the queue, which begins empty (theirs: with noise of class 0; their
code also has the other queries). Plain fusions have no batch norm, which couples rows, and zero for
what is absent. The share of tokens left out is reconstructed: their code leaves it to the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Clock, Features, StagedMethod
from amodal.methods.shared.fused import fused_vectors
from amodal.methods.shared.shapes import ema_update, frozen_copy, refuse_pool
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.fusions import fusion_of
from amodal.nn.queue import GroupedQueue
from amodal.objectives.focal import focal
from amodal.objectives.sup_moco import sup_moco


def mhsa_dms(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    fuse: str = "attention",
    ratio: float = 0.5,
    dropout: float = 0.5,
    groups: str = "",
    width: int = 128,
    temperature: float = 0.07,
    queue: int = 16384,
    momentum: float = 0.999,
    tell: float = 0.2,
) -> FusedContrast:
    """label: what is to be told, a label of the data (none: plain MoCo); classes: how many it has
    (0: counted in the data). fuse: "attention", "sum", "conv", "se" or "aff", see
    `amodal.nn.fusion.fusions`; ratio: share of a row's tokens that attention is not shown while
    training; dropout: of it; groups: fields that attention fuses apart first, such as "a+b,c+d".
    width: of the contrast's space; temperature: of it; queue: keys kept; momentum: of the encoder
    of keys; tell: share of the steps, at the end, for the classifier."""
    if label and (classes < 2 or not 0 < tell < 1):
        raise AmodalError(
            "to tell a label mhsa_dms needs classes, at least 2, and tell, a share of the steps"
        )
    fusion = fusion_of(
        fuse, list(encoder.fields), encoder.width, ratio=ratio, dropout=dropout, groups=groups
    )
    method = FusedContrast(encoder, fusion, width, queue, classes)
    method.temperature, method.momentum, method.labels = (
        temperature,
        momentum,
        (label,) if label else (),
    )
    method.stages = (1 - tell, 1.0) if label else (1.0,)
    return method


class FusedContrast(StagedMethod):
    """Features: `query` and `key` of each row, or its fused vector, `fused`, once the classifier is
    trained; its label."""

    views, min_batch_size = ("strong", "strong"), 2

    def __init__(self, encoder: Encoder, fusion: nn.Module, width: int, queue: int, classes: int):
        super().__init__()
        refuse_pool(encoder)
        d, self.telling, self._seen = encoder.width, False, ()
        self.encoder, self.fusion = encoder, fusion
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, width))
        self.classifier = (
            nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, classes)) if classes else None
        )
        self.slow, self.queue = (
            frozen_copy(nn.ModuleDict(self.learning())),
            GroupedQueue(queue, width),
        )

    def learning(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "fusion": self.fusion, "head": self.head}

    def on_stage_start(self, stage: int) -> None:
        self.telling = stage > 0
        for module in self.learning().values():
            module.requires_grad_(not self.telling)

    def features(self, batch: Batch) -> Features:
        columns = {"label": batch.labels[self.labels[0]]} if self.labels else {}
        if self.telling:
            return Features(columns | {"fused": self.fused(batch)}, batch.size)
        query = fused_vectors(self.encoder, self.fusion, batch, 1, batch.seeds)
        with torch.no_grad():
            key = fused_vectors(
                self.slow["encoder"], self.slow["fusion"], batch, 2, hash_bits(batch.seeds, 1)
            )
            columns["key"] = Column(self.slow["head"](key.values), key.rows)
        return Features(
            columns | {"query": Column(self.head(query.values), query.rows)}, batch.size
        )

    def losses(self, features: Features) -> dict[str, Tensor]:
        if self.telling:
            at, of = shared_rows(features["fused"], features["label"])
            return {
                "told": focal(
                    self.classifier(features["fused"].values[at]), features["label"].values[of]
                )
            }
        key = features["key"]
        group = key.rows.new_full((features.size,), -1)
        if self.labels:
            group[features["label"].rows] = features["label"].values
        self._seen = normalize(key.values.detach(), dim=1), group[key.rows]
        keys = [
            torch.cat([new, old.to(new.dtype)])
            for new, old in zip(self._seen, self.queue.earlier())
        ]
        return {"contrast": sup_moco(features["query"].values, *keys, temperature=self.temperature)}

    def on_step_end(self, clock: Clock) -> None:
        if not self.telling and self._seen:
            self.queue.push(*self._seen)
            for name, module in self.learning().items():
                ema_update(self.slow[name], module, self.momentum)

    @torch.no_grad()
    def fused(self, batch: Batch) -> Column:
        """(N, D) unit vectors of the rows that have any field, from all that they have; of views,
        the first."""
        return fused_vectors(self.encoder, self.fusion, batch)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """(N, classes) logits, of those rows."""
        fused = self.fused(batch)
        return Column(self.classifier(fused.values), fused.rows)

"""The yardstick of pretrained models: what their own features get on the same records.

Of a backbone it is the mean of the features of a value's tokens, before any head or trunk of this
training; of a vision transformer that a run began with (`--init-from timm:…`) the vector that it
gave. Both stand in the place of an encoder's vectors. Two models meet in retrieval by the
closed-form maps of `amodal.evaluate.yardsticks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from amodal.core import AmodalError, Column
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.evaluate.context import EmbeddedParts, Pair, Run
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_parts import Choice, ComparedParts
from amodal.evaluate.yardsticks import MAX_TRAIN, in_place_of, training_records
from amodal.inference.embed import device_of
from amodal.inference.forward_passes import (
    AnyEncoder,
    Device,
    eval_mode,
    sequential_loader,
    to_cpu,
)
from amodal.inference.simple_features import reduced
from amodal.nn.backbones.module import ModuleBackbone
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.backbones.vit_weights import vit_weights
from amodal.progress import Bar


def pretrained_fields(
    model: Run | AnyEncoder, encoder: AnyEncoder, baseline: AnyEncoder | None
) -> tuple[AnyEncoder, list[str]]:
    """The fields whose models had weights before this training, and who has these weights.

    Args:
        model: What is evaluated. A run says whether it trained its backbones.
        encoder: Its encoder.
        baseline: The encoder before training, if there is one.

    Returns:
        An encoder, and fields of it; none where the weights have changed and no one has the former.
    """
    schedule: dict[str, Any] = model.config.get("schedule", {}) if isinstance(model, Run) else {}
    fields = [] if baseline is None else _of_vit(schedule, encoder)
    for field in filter(encoder.contextual, encoder.fields):
        backbone = encoder.tokenizers[field]
        learnt = schedule.get("train_backbones", not getattr(backbone, "frozen", False))
        # what begins random learns, whatever is said of pretrained ones
        learnt = learnt or (isinstance(backbone, Backbone) and backbone.body.is_scratch)
        if not learnt or (baseline is not None and has_weights(backbone)):
            fields.append(field)
    return (encoder if baseline is None else baseline), fields


def _of_vit(schedule: Mapping[str, Any], encoder: AnyEncoder) -> list[str]:
    """The fields that began with the weights of a vision transformer; none if they are gone, as
    `amodal.untrained` warns."""
    try:
        vit = vit_weights(schedule.get("init_from", ""))
    except AmodalError:
        return []
    taken = [*filter(encoder.contextual, encoder.fields)]
    return [] if vit is None else [*vit.fields_of(encoder.fields, taken)]


def has_weights(backbone: nn.Module) -> bool:
    """Whether the spec of a backbone names weights; a module of the user's own has no spec."""
    if not isinstance(backbone, Backbone):
        return False
    if backbone.body.is_scratch:
        return False
    return "@" in backbone.name or not backbone.name.startswith("timm:")


class FrozenParts(ComparedParts):
    """Pooled features of pretrained models of the records and rows of a model's embedded parts,
    made when first needed.

    Args:
        encoder: As it was before training.
        fields: Those that had weights then.
        dataset: Where the records are; cached features of the backbones are taken.
        rows: Numbers of the training and of the test records.
        embedded: The model's parts.
        needed: Which of the records protocols read on these features; None for all.
        pairs: Whether they read the space where fields are compared, which is fitted on training
            records that no protocol need read.
        seed: Of the choice of training records.
        batch: Records embedded at once.
        device: Where the backbones are, read off their parameters unless set.
        progress: Show a bar.
    """

    def __init__(
        self,
        encoder: AnyEncoder,
        fields: Iterable[str],
        dataset: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        embedded: EmbeddedParts,
        *,
        needed: Choice | None = None,
        pairs: bool = True,
        seed: int = 0,
        batch: int = 256,
        device: Device | None = None,
        progress: bool = False,
    ):
        super().__init__(self._frozen, embedded, needed)
        self._encoder, self._fields, self._dataset, self._rows = encoder, [*fields], dataset, rows
        self._pairs, self._seed = pairs and len(self._fields) > 1, seed
        self._batch, self._device, self._progress = batch, device, progress

    def _frozen(self) -> Pair:
        models, chosen = self.embedded.pair, self._chosen()
        if not all(map(len, chosen)):
            raise NotApplicable("no training or no test record is read")
        numbers = [rows[some] for rows, some in zip(self._rows, chosen)]
        with Bar("frozen features", sum(map(len, numbers)), shown=self._progress) as bar:
            sides = [
                pooled_features(
                    self._encoder, self._fields, self._dataset, part, self._batch, self._device, bar
                )
                for part in numbers
            ]
        columns = reduced_columns(self._fields, sides)
        whole = FUSED in models[0].probed() and set(columns[0]) >= set(models[1].sources)
        return in_place_of(models, columns, chosen, fused=whole, seed=self._seed)

    def _chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """The training and the test records whose features are made."""
        train, test = self.masks()
        most = MAX_TRAIN if self._pairs else int(train.sum())
        learnt = training_records(train, most, self._seed)
        # maps of two fields are fitted on records that have both
        present = [self._dataset.present(name)[self._rows[0][learnt]] for name in self._fields]
        useful = train[learnt] | (np.sum(present, 0) > 1)
        return learnt[useful], np.flatnonzero(test)


def reduced_columns(
    fields: Iterable[str], sides: Sequence[Mapping[str, Column]]
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Features of training and of test records, each field's reduced as its training records ask.

    Args:
        fields: Of which a field that either side lacks is left out.
        sides: Field -> features, of the training and of the test records.
    """
    columns: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
    for name in (name for name in fields if all(name in side for side in sides)):
        pair = [side[name] for side in sides]
        for made, old, x in zip(columns, pair, reduced([vectors_of(c) for c in pair])):
            made[name] = Column(x, old.rows)
    return columns


@fast_products()
@torch.no_grad()
def pooled_features(
    encoder: AnyEncoder,
    fields: Iterable[str],
    dataset: Dataset,
    indices: np.ndarray,
    batch: int = 256,
    device: Device | None = None,
    bar: Bar | None = None,
) -> dict[str, Column]:
    """The mean features of the tokens of each value, or its vector where no backbone reads it.

    Args:
        encoder: As it was before training.
        fields: Those that had weights then.
        dataset: Where the records are.
        indices: (N,) which records.
        batch: Records at once.
        device: Where the backbones are, read off the encoder unless set.
        bar: Counts the records.

    Returns:
        Field -> (n, width) features on the CPU, of the rows of N that have the field.
    """
    device = device_of(encoder) if device is None else device
    parts: dict[str, list[Column]] = {field: [] for field in fields}
    size = 0
    with eval_mode(encoder):
        for part in sequential_loader(dataset, indices, batch):
            here = part.to(device)
            for field, found in parts.items():
                if field in here.columns and len(here.columns[field]):
                    pooled = (
                        _pooled(encoder.tokenizers[field], here.columns[field])
                        if encoder.contextual(field)
                        else to_cpu(encoder.features(here.only(field)))[field]
                    )
                    found.append(Column(vectors_of(pooled), pooled.rows + size))
            size += part.size
            if bar is not None:
                bar.step("records", by=part.size)
    return {
        field: Column(torch.cat([vectors_of(c) for c in found]), torch.cat([c.rows for c in found]))
        for field, found in parts.items()
        if found
    }


def _pooled(backbone: nn.Module, column: Column) -> Column:
    """(n, width) means of the rows with any token."""
    features, lengths, _ = cast(Backbone | ModuleBackbone, backbone).features(column)
    lengths = lengths.to(features.device)
    row = torch.repeat_interleave(torch.arange(len(lengths), device=features.device), lengths)
    total = features.new_zeros(len(lengths), features.shape[1]).index_add(0, row, features)
    some = lengths > 0
    mean = (total[some] / lengths[some, None]).float().cpu()
    return Column(mean, column.rows.cpu()[some.cpu()])

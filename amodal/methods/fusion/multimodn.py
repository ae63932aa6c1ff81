"""MultiModN: fields update one shared state, in turn, and every task is told from every state, so
that what is missing is just not read. Swamy, Satayeva, Frej, Bossy, Vogels, Jaggi, Käser and
Hartley, NeurIPS 2023, arXiv:2309.14118, section 3: modules that read a field and the state, tasks
told after each, and the size of changes. Row 147 of the catalogue.

What differs. A field is skipped record by record; the public code skips it for a whole batch as
soon as one record lacks it, which hides which records those are. So the error after a field is the
mean over the records that have it. A module's layers before its last are this library's trunks.
Records may be read in an order of their own each; there it is one for a batch. Dropout is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, unknown
from amodal.methods.contract import Features, Method
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.sequential import SequentialFusion, random_orders
from amodal.nn.heads.supervised import SupervisedHead, Target


def multimodn(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    task: str = "auto",
    order: str = "",
    shuffle: bool = False,
    state: int = 50,
    hidden: int = 32,
    change: float = 0.003,
    view: str = "weak",
) -> MultiModN:
    """label: what is to be told, a label of the data, or several with commas between, each a task;
    targets: what the labels hold (read from the data unless given); task: "auto", by the kind of
    each label, or "survival", label being TIME,EVENT; order: fields in the order in which they are
    read, with commas (that of the data unless given); shuffle: read them in a random order while
    training; state: width of the shared state; hidden: width of the tasks' hidden layer (0: a
    linear map); change: weight of the mean squared change of the state; view: how values are
    augmented, such as "plain" or "weak"."""
    fields = [f.strip() for f in order.split(",")] if order else list(encoder.fields)
    for name in fields:
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    if sorted(fields) != sorted(encoder.fields):
        raise AmodalError(f"order = {order!r} should name each of {', '.join(encoder.fields)} once")
    head = SupervisedHead([Target.read(t) for t in targets], (), state, hidden=hidden, joint=True)
    return MultiModN(
        encoder,
        SequentialFusion(fields, encoder.feature_width(fields[0]), state),
        head,
        shuffle,
        change,
        view,
    )


class MultiModN(Method):
    """Features: outputs of the tasks before any field, `told/`, and after each, `told/FIELD`;
    `change/FIELD`; the labels."""

    def __init__(
        self,
        encoder: Encoder,
        modules: SequentialFusion,
        head: SupervisedHead,
        shuffle: bool,
        change: float,
        view: str,
    ):
        super().__init__()
        self.encoder, self.steps, self.head, self.shuffle, self.change = (
            encoder,
            modules,
            head,
            shuffle,
            change,
        )
        self.views, self.labels = (view,), head.labels

    def features(self, batch: Batch) -> Features:
        z = self.encoder.features(batch)
        turn_BK = (
            random_orders(batch.seeds, len(self.steps.steps))
            if self.shuffle and self.training
            else None
        )
        _, found = self.steps(z, turn_BK)
        columns = {"told/": self.head(self.begin_with(batch))}
        for s, pair in found.items():
            before, after = pair.values.unbind(1)
            columns |= {f"told/{s}": self.head(Column(after, pair.rows))}
            columns |= {f"change/{s}": Column((after - before).square().mean(1), pair.rows)}
        return Features(columns | self.head.known(batch), batch.size)

    def begin_with(self, batch: Batch) -> Column:
        rows = torch.arange(batch.size, device=batch.seeds.device)
        return Column(self.steps.start.expand(batch.size, -1), rows)

    def losses(self, features: Features) -> dict[str, Tensor]:
        told = [self.head.losses(features[n], features) for n in features if n.startswith("told/")]
        tasks = {n: sum(one[n] for one in told) / (len(told) * len(told[0])) for n in told[0]}
        changes = [features[n].values for n in features if n.startswith("change/")]
        size = sum(c.sum() / max(len(c), 1) for c in changes) / len(changes)
        return tasks | ({"change": self.change * size} if self.change else {})

    @torch.no_grad()
    def curve(self, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """What is told of all rows before any field, "", and after each, in their order: field ->
        target -> predictions. A row that lacks a field is told as before it; what a field changes
        is its importance for that row."""
        state, found = self.begin_with(batch), self.steps(self.encoder.features(batch))[1]
        states = {"": state} | {s: (state := placed(state, pair)) for s, pair in found.items()}
        return {s: self.head.predictions(self.head(state)) for s, state in states.items()}

    def predict(self, batch: Batch) -> Column:
        """Of all rows; one without any field is told as the average record."""
        state, _ = self.steps(self.encoder.features(batch))
        return self.head(Column(state, torch.arange(batch.size, device=state.device)))


def placed(state: Column, pair: Column) -> Column:
    return Column(state.values.index_copy(0, pair.rows, pair.values[:, 1]), state.rows)

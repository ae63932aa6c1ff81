"""MultiModN: fields update one shared state, in turn, and every task is predicted from every state.
A missing field is skipped. Swamy, Satayeva, Frej, Bossy, Vogels, Jaggi, Käser and
Hartley, NeurIPS 2023, arXiv:2309.14118, section 3: modules that read a field and the state,
tasks predicted after each, and the size of changes. Row 147 of the catalogue.

Differs:

- missing fields: skipped record by record. The public code skips a field for a whole batch as soon
  as one record lacks it, which hides which records those are. So the error after a field is the
  mean over the records that have it.
- modules: this library's trunk of a field, then one linear map of its vector and the state, as in
  the authors' MLPEncoder. Their MIMIC experiments put the state in at the first layer, with ReLU
  after every layer and dropout of 0.2. Trunks learn with the rest; the authors read embeddings that
  were made beforehand (a frozen `--backbone`, or `cache_features`).
- tasks: one perceptron for all, GELU after its hidden layer. `--method.separate true
  --method.layers 2` has the authors' of MIMIC, one for each task, with ReLU and two hidden layers;
  `layers 0` those of Titanic. They put sigmoid outputs into the cross-entropy, here it takes
  logits.
- order: with `shuffle`, one of its own for each record; there it is one for a batch.
- views: `weak` by default; `view="plain"` is the paper's.
- weights: the error's is 1 (0.7 in the Titanic experiments), that of change 0.3 of a hundredth
  (MIMIC: 0).
- training: the authors keep the epoch that is best on validation records. Adam's decay is 0.
- product: `amodal predict RUN --by-field` has each task before any field and after each: what a
  field adds for a record; accuracies by `amodal evaluate` (`head`). Experiments with fields that
  are missing by the label are protocols (`missing_modality_robustness`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Recipe, unknown
from amodal.methods.contract import Columns, Method
from amodal.methods.shared.supervised import LabelledFeatures, head_losses, label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.sequential import SequentialFusion, random_orders
from amodal.nn.heads.decoders import TaskDecoders
from amodal.nn.heads.supervised import SupervisedHead, Target

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup_steps=0,
    clip=0.0,
    batch_size=16,
    epochs=100.0,
)
"""Of the experiments on MIMIC."""


def multimodn(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    order: str = "",
    shuffle: bool = False,
    state: int = 50,
    hidden: int = 32,
    layers: int = 1,
    separate: bool = False,
    change: float = 0.003,
    view: str = "weak",
) -> MultiModN:
    """Build MultiModN.

    Args:
        encoder: Of any fields.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        order: Fields in the order in which they are read, with commas (by default that of the
            data).
        shuffle: Read them in a random order while training.
        state: Width of the shared state.
        hidden: Width of the tasks' hidden layers (0: a linear map).
        layers: Number of them; other than 1 with `separate` alone.
        separate: Each task has a perceptron of its own, with ReLU.
        change: Weight of the mean squared change of the state.
        view: How values are augmented, such as "plain" or "weak".
    """
    fields = [f.strip() for f in order.split(",")] if order else list(encoder.fields)
    for name in fields:
        if name not in encoder.fields:
            raise unknown("field", name, encoder.fields)
    if sorted(fields) != sorted(encoder.fields):
        raise AmodalError(f"order = {order!r} should name each of {', '.join(encoder.fields)} once")
    if layers < 0 or (layers != 1 and not separate):
        raise AmodalError(
            f"a perceptron of all tasks has one hidden layer, not {layers}; set separate for one "
            "of each task"
        )
    tasks, net = [Target.read(t) for t in targets], None
    if separate:
        widths = [task.width for task in tasks]
        net = TaskDecoders(state, widths, hidden=hidden, layers=layers if hidden else 0)
    head = SupervisedHead(tasks, (), state, hidden=hidden, joint=True, net=net)
    modules = SequentialFusion(fields, encoder.feature_width(fields[0]), state)
    return MultiModN(encoder, modules, head, shuffle=shuffle, change=change, view=view)


@dataclass(frozen=True, kw_only=True)
class SequentialFeatures(LabelledFeatures):
    """Outputs of the tasks, step by step.

    Args:
        initial: (B, outputs) before any field.
        outputs: field -> (N, outputs) after it.
        change: field -> (N,) mean squared change of the state.
    """

    initial: Column
    outputs: Columns
    change: Columns


class MultiModN(Method):
    """A state that fields update in turn, and tasks predicted from every state.

    Args:
        encoder: Of the fields.
        modules: Update the state.
        head: Of the tasks.
        shuffle: Read fields in a random order while training.
        change: Weight of the mean squared change of the state.
        view: How values are augmented.
    """

    def __init__(
        self,
        encoder: Encoder,
        modules: SequentialFusion,
        head: SupervisedHead,
        *,
        shuffle: bool,
        change: float,
        view: str,
    ):
        super().__init__()
        self.encoder, self.steps, self.head = encoder, modules, head
        self.shuffle, self.change = shuffle, change
        self.views, self.labels = (view,), head.labels

    def features(self, batch: Batch) -> SequentialFeatures:
        z, turn_BK = self.encoder.features(batch), None
        if self.shuffle and self.training:
            turn_BK = random_orders(batch.seeds, len(self.steps.steps))
        initial = self.head(self.initial_state(batch))
        outputs, change = {}, {}
        for s, pair in self.steps(z, turn_BK)[1].items():
            before, after = pair.values.unbind(1)
            outputs[s] = self.head(Column(after, pair.rows))
            change[s] = Column((after - before).square().mean(1), pair.rows)
        return SequentialFeatures(
            size=batch.size,
            initial=initial,
            outputs=outputs,
            change=change,
            label=label_columns(batch, self.labels),
        )

    def initial_state(self, batch: Batch) -> Column:
        """The learned state (B, D) before any field."""
        rows = torch.arange(batch.size, device=batch.seeds.device)
        return Column(self.steps.start.expand(batch.size, -1), rows)

    def losses(self, features: SequentialFeatures) -> dict[str, Tensor]:
        # the state before any field is a step too, in which tasks learn the average record
        columns = [features.initial, *features.outputs.values()]
        steps = [head_losses(self.head, outputs, features) for outputs in columns]
        fields = len(self.steps.steps)
        number = (1 + fields) * len(steps[0])
        tasks = {n: reduce(torch.add, (step[n] for step in steps)) / number for n in steps[0]}
        if not self.change:
            return tasks
        changes = [c.flat.sum() / max(len(c), 1) for c in features.change.values()]
        size = reduce(torch.add, changes) / fields
        return tasks | {"change": self.change * size}

    @torch.no_grad()
    def predict_by_field(self, batch: Batch) -> dict[str, Column]:
        """The outputs of all rows before any field ("") and after each, in order.

        A row that lacks a field keeps its outputs. The change by a field is its importance for that
        row.
        """
        state, updates = self.initial_state(batch), self.steps(self.encoder.features(batch))[1]
        outputs = {"": self.head(state)}
        for field in self.steps.steps:
            state = updated(state, updates[field]) if field in updates else state
            outputs[field] = self.head(state)
        return outputs

    def predict(self, batch: Batch) -> Column:
        """The outputs of all rows; one without any field is predicted as the average record."""
        state, _ = self.steps(self.encoder.features(batch))
        rows = torch.arange(batch.size, device=state.device)
        outputs: Column = self.head(Column(state, rows))
        return outputs


def updated(state: Column, pair: Column) -> Column:
    """The state with the new values of some rows; `pair` (N, 2, D) holds old and new ones."""
    return Column(state.flat.index_copy(0, pair.rows, pair.flat[:, 1]), state.rows)

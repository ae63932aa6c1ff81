"""What is to be told of a record, and the head that tells it: classes, amounts, and how soon an
event comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.core.embeddings import FUSED
from amodal.nn.fusion.late_fusion import side_by_side
from amodal.objectives.common import connected_zero
from amodal.objectives.cox import cox
from amodal.objectives.distill import distill

KINDS = ("classes", "amount", "survival")
EVENTS = {"1", "1.0", "true", "yes", "event", "dead", "deceased", "died", "relapse", "failure"}
"""How people write that the event came."""

Survival = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log hazards, times, events (N,) -> a loss."""


@dataclass(frozen=True)
class Target:
    """name: the label; of a survival time two, `TIME,EVENT`. kind: "classes" (names in order),
    "amount" (mean and std of those to train on), or "survival" (event: the number of the class of
    EVENT that says it came)."""

    name: str
    kind: str = "classes"
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    event: int = 1

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.name.split(",")) if self.kind == "survival" else (self.name,)

    @property
    def width(self) -> int:
        return len(self.classes) if self.kind == "classes" else 1

    @staticmethod
    def read(item: Target | dict) -> Target:
        """Also from JSON."""
        if isinstance(item, Target):
            return item
        if not isinstance(item, dict):
            raise AmodalError(
                f"a target is written as name, kind, classes, …, not as {item!r}; it is usually read from the data"
            )
        return Target(**(item | {"classes": tuple(item.get("classes", ()))}))

    def written(self) -> dict:
        return asdict(self) | {"classes": list(self.classes)}


def targets_of(dataset, rows: np.ndarray, label: str, task: str = "auto") -> tuple[Target, ...]:
    """label: one or several labels of the dataset, separated by commas, each a task of its own;
    task: "auto" (by the kind of each label) or "survival" (label is TIME,EVENT). rows: of the
    records to train on, whose mean and spread an amount is measured by. Raises AmodalError for
    labels that there are not, or that say nothing."""
    if task not in ("auto", "survival"):
        raise unknown("task", task, ("auto", "survival"))
    names = [name.strip() for name in label.split(",") if name.strip()]
    if not names:
        raise AmodalError(
            f"say what is to be told: a label of the data, one of {', '.join(dataset.labels) or 'none there are'}"
        )
    values = {name: dataset.label(name, required=True) for name in names}
    if task == "survival":
        if len(names) != 2:
            raise AmodalError(
                f"survival is told from two labels, TIME,EVENT, and {label!r} names {len(names)}"
            )
        return (survival_of(*names, values[names[1]]),)
    return tuple(_target(name, v, rows) for name, v in values.items())


def _target(name: str, values: np.ndarray, rows: np.ndarray) -> Target:
    if values.dtype == object:
        classes = tuple(sorted({v for v in values if v is not None}))
        if len(classes) < 2:
            raise AmodalError(
                f"the label {name!r} has one class, {classes[0]!r}, so there is nothing to tell"
            )
        return Target(name, "classes", classes)
    own = values[rows][np.isfinite(values[rows])]
    if not len(own) or not own.std():
        raise AmodalError(
            f"the label {name!r} is the same number, or none, for all records to train on"
        )
    return Target(name, "amount", mean=float(own.mean()), std=float(own.std()))


def survival_of(time: str, event: str, values: np.ndarray) -> Target:
    """values: of the label `event`, of which it is found out how they say that the event came.
    Raises AmodalError if they do not."""
    if values.dtype != object:
        return Target(f"{time},{event}", "survival")
    classes = sorted({v for v in values if v is not None})
    came = [i for i, c in enumerate(classes) if c.lower() in EVENTS]
    if len(classes) != 2 or len(came) != 1:
        raise AmodalError(
            f"the label {event!r} should say of each record whether the event came, in two words such as 1 and 0 or yes and no; "
            f"it has {', '.join(map(repr, classes[:5]))}"
        )
    return Target(f"{time},{event}", "survival", event=came[0])


class SupervisedHead(nn.Module):
    """A linear map, or a perceptron with a hidden layer of `hidden`, of what an encoder makes of a
    record: the fused vector of a joint trunk, else the vectors of all fields side by side, with a
    learned one in the place of a field that is lacking."""

    def __init__(
        self,
        targets: Sequence[Target],
        fields: Sequence[str],
        width: int | Mapping[str, int],
        *,
        hidden: int = 0,
        joint: bool = False,
    ):
        """width: of the vectors, or field -> width where they differ."""
        super().__init__()
        self.targets, self.hidden, self.joint = tuple(targets), hidden, joint
        if not targets:
            raise AmodalError("nothing is to be told: give label, a label of the data")
        for target in targets:
            if target.kind not in KINDS:
                raise unknown("kind of target", target.kind, KINDS)
        each = width if isinstance(width, Mapping) else dict.fromkeys(fields, width)
        self.absent = nn.ParameterDict(
            {} if joint else {s: nn.Parameter(torch.zeros(each[s])) for s in fields}
        )
        size = width if joint else sum(each[s] for s in fields)
        out = sum(target.width for target in targets)
        deep = (
            (nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, out))
            if hidden
            else (nn.Linear(size, out),)
        )
        self.net = nn.Sequential(*deep)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for target in self.targets for name in target.labels))

    def forward(self, z: Embeddings | Column) -> Column:
        """(N, outputs): of the rows that have any field. z: features of the encoder, or what a
        joint head reads (N, D)."""
        together = (
            z if isinstance(z, Column) else z[FUSED] if self.joint else side_by_side(self.absent, z)
        )
        return Column(self.net(together.values), together.rows)

    @torch.no_grad()
    def tell(self, z: Embeddings) -> Column:
        """`forward` of embeddings wherever they lie; on the CPU."""
        device = self.net[-1].weight.device
        told = self(Embeddings({s: c.to(device) for s, c in z.columns.items()}, z.size))
        return told.to("cpu")

    def split(self, told: Column) -> dict[str, Column]:
        """Target -> its part of the outputs."""
        return split(self.targets, told)

    def known(self, batch: Batch) -> dict[str, Column]:
        """`label/NAME` -> the labels of a batch, for the features of a method. Raises AmodalError
        for one that it does not bring."""
        for name in self.labels:
            if name not in batch.labels:
                raise unknown("label of this batch", name, batch.labels)
        return {f"label/{name}": batch.labels[name] for name in self.labels}

    def losses(
        self, told: Column, known: Embeddings, smoothing: float = 0.0, survival: Survival = cox
    ) -> dict[str, Tensor]:
        """Target -> cross-entropy, squared error in deviations, or Cox's. told: outputs (N, …);
        known: holds what `known` gave; survival: in place of Cox's. A batch in which none has the
        label gives zero."""
        found = {}
        for target in self.targets:
            out, *labels = (
                self.split(told)[target.name],
                *(known[f"label/{n}"] for n in target.labels),
            )
            rows = (
                torch.stack([c.present(known.size) for c in (out, *labels)])
                .all(0)
                .nonzero()
                .squeeze(1)
            )
            x = out.values[torch.searchsorted(out.rows, rows)]
            y = [c.values[torch.searchsorted(c.rows, rows)] for c in labels]
            found[f"told/{target.name}"] = (
                _loss(target, x, y, smoothing, survival)
                if len(rows)
                else connected_zero(out.values)
            )
        return found

    def follow(self, student: Column, teacher: Column, temperature: float = 1.0) -> Tensor:
        """Mean over the targets of how far outputs are from a teacher's, which gets no gradient, on
        the rows that both have: `distill` for classes, squared error for the others."""
        own, aim = map(self.split, both(student, teacher))
        each = [
            _follow(target, own[target.name].values, aim[target.name].values, temperature)
            for target in self.targets
        ]
        return torch.stack(each).mean()

    def predictions(self, told: Column) -> dict[str, Tensor]:
        """See `predictions`."""
        return predictions(self.targets, told)

    def written(self) -> dict:
        """JSON-able; `supervised_head` builds the same head again."""
        return {"targets": [t.written() for t in self.targets], "hidden": self.hidden}


def split(targets: Sequence[Target], told: Column) -> dict[str, Column]:
    """Target -> its part of the outputs (N, …)."""
    parts = told.values.split([target.width for target in targets], 1)
    return {target.name: Column(part, told.rows) for target, part in zip(targets, parts)}


@torch.no_grad()
def predictions(targets: Sequence[Target], told: Column) -> dict[str, Tensor]:
    """Target -> probabilities (N, classes), amounts (N,), or log hazards (N,), the higher the
    sooner."""
    found = {}
    for target in targets:
        x = split(targets, told)[target.name].values.float()
        amount = x.squeeze(1) * target.std + target.mean if target.kind != "classes" else x
        found[target.name] = x.softmax(1) if target.kind == "classes" else amount
    return found


def _loss(
    target: Target, x: Tensor, y: list[Tensor], smoothing: float, survival: Survival
) -> Tensor:
    if target.kind == "classes":
        return cross_entropy(x.float(), y[0], label_smoothing=smoothing)
    if target.kind == "amount":
        return mse_loss(x.squeeze(1).float(), (y[0].float() - target.mean) / target.std)
    return survival(x.squeeze(1), y[0], y[1] == target.event)


def _follow(target: Target, x: Tensor, aim: Tensor, temperature: float) -> Tensor:
    if target.kind == "classes":
        return distill(x, aim, temperature=temperature)
    return mse_loss(x.float(), aim.detach().float()) if len(x) else connected_zero(x.float())


def supervised_head(encoder, targets: Sequence[Target | dict], hidden: int = 0) -> SupervisedHead:
    """The head for what this encoder makes of its fields."""
    made, fields = [Target.read(t) for t in targets], list(encoder.fields)
    if encoder.trunk == "joint":
        return SupervisedHead(made, fields, encoder.feature_width(FUSED), hidden=hidden, joint=True)
    widths = {f: encoder.feature_width(f) for f in fields}
    return SupervisedHead(made, fields, widths, hidden=hidden)

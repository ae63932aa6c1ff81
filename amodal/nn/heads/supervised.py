"""What labels a head predicts, and the head: classes, amounts, and how soon an event comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.core.embeddings import FUSED
from amodal.errors import described
from amodal.nn.fusion.late_fusion import side_by_side
from amodal.objectives.common import at_least_single, connected_zero
from amodal.objectives.cox import cox
from amodal.objectives.distill import distill

if TYPE_CHECKING:
    from amodal.nn.encoder import Encoder

KINDS = ("classes", "amount", "survival")
EVENTS = {"1", "1.0", "true", "yes", "event", "dead", "deceased", "died", "relapse", "failure"}
"""How people write that the event came."""

Survival = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log hazards, times, events (N,) -> a loss."""

Labels = npt.NDArray[Any]
"""(N,) float, NaN where missing, or object: str, None where missing."""


class Labelled(Protocol):
    """A dataset with labels, as far as targets need it."""

    @property
    def labels(self) -> Mapping[str, Any]:
        """Name -> what is known of the label."""
        ...

    def label(self, name: str, *, required: bool = ...) -> Labels:
        """The values of a label."""
        ...


@dataclass(frozen=True)
class Target:
    """A label to predict.

    Attributes:
        name: Of the label; of a survival time two names, `TIME,EVENT`.
        kind: "classes", "amount" or "survival".
        classes: Their names, in the order of the outputs.
        mean, std: Of an amount, over the records to train on.
        event: Which class of EVENT, by its number, says that the event came.
    """

    name: str
    kind: str = "classes"
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    event: int = 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels that it is read from."""
        return tuple(self.name.split(",")) if self.kind == "survival" else (self.name,)

    @property
    def width(self) -> int:
        """Outputs of a head for it."""
        return len(self.classes) if self.kind == "classes" else 1

    @staticmethod
    def read(item: Target | Mapping[str, Any]) -> Target:
        """A target, also from the dict that `written` made of one.

        Raises:
            AmodalError: For anything else.
        """
        if isinstance(item, Target):
            return item
        if not isinstance(item, Mapping):
            raise AmodalError(
                f"a target is written as name, kind, classes, …, not as {described(item)}; it is "
                "usually read from the data"
            )
        return Target(**{**item, "classes": tuple(item.get("classes", ()))})

    def written(self) -> dict[str, Any]:
        """As a JSON-able dict."""
        return asdict(self) | {"classes": list(self.classes)}


def targets_of(
    dataset: Labelled, rows: npt.NDArray[np.integer[Any]], label: str, task: str = "auto"
) -> tuple[Target, ...]:
    """The targets of a dataset's labels.

    Args:
        dataset: Has the labels.
        rows: Of the records to train on, whose mean and spread scale an amount.
        label: One label or more, separated by commas, each a target of its own.
        task: "auto", by the kind of each label, or "survival", where `label` is TIME,EVENT.

    Raises:
        AmodalError: For unknown labels, and for labels that are the same for all records.
    """
    if task not in ("auto", "survival"):
        raise unknown("task", task, ("auto", "survival"))
    names = [name.strip() for name in label.split(",") if name.strip()]
    if not names:
        raise AmodalError(
            "name the label to predict, one of the data's: "
            f"{', '.join(dataset.labels) or 'it has none'}"
        )
    values = {name: dataset.label(name, required=True) for name in names}
    if task == "survival":
        if len(names) != 2:
            raise AmodalError(
                "survival is predicted from two labels, TIME,EVENT, and "
                f"{label!r} names {len(names)}"
            )
        time, event = names
        return (survival_of(time, event, values[event]),)
    return tuple(_target(name, v, rows) for name, v in values.items())


def _target(name: str, values: Labels, rows: npt.NDArray[np.integer[Any]]) -> Target:
    if values.dtype == object:
        classes = tuple(sorted({v for v in values if v is not None}))
        if len(classes) < 2:
            raise AmodalError(
                f"the label {name!r} has one class, {classes[0]!r}, so there is nothing to predict"
            )
        return Target(name, "classes", classes)
    known = values[rows][np.isfinite(values[rows])]
    if not len(known) or not known.std():
        raise AmodalError(
            f"the label {name!r} is the same number, or none, for all records to train on"
        )
    return Target(name, "amount", mean=float(known.mean()), std=float(known.std()))


def survival_of(time: str, event: str, values: Labels) -> Target:
    """The target of a time and of whether the event came.

    Args:
        time: Name of the label of times.
        event: Name of the label of events.
        values: Of the label `event`, in which the word for "it came" is looked for.

    Raises:
        AmodalError: If the values are not two words, one of them in `EVENTS`.
    """
    if values.dtype != object:
        return Target(f"{time},{event}", "survival")
    classes = sorted({v for v in values if v is not None})
    came = [i for i, c in enumerate(classes) if c.lower() in EVENTS]
    if len(classes) != 2 or len(came) != 1:
        raise AmodalError(
            f"the label {event!r} should say of each record whether the event came, in two words "
            "such as 1 and 0 or yes and no; "
            f"it has {', '.join(map(repr, classes[:5]))}"
        )
    return Target(f"{time},{event}", "survival", event=came[0])


class SupervisedHead(nn.Module):
    """A linear map, or a perceptron with one hidden layer, from features to targets.

    It reads the fused vector of a joint trunk, else the vectors of all fields side by side, with a
    learned vector in place of a missing field.

    Args:
        targets: At least one.
        fields: What it reads.
        width: Of the vectors, or field -> width where they differ.
        hidden: Of the perceptron; 0 for a linear map.
        joint: Whether it reads fused vectors.
        net: In place of the perceptron.
        norm: A LayerNorm before the perceptron's activation.

    Raises:
        AmodalError: Without targets, and for a target of an unknown kind.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        fields: Sequence[str],
        width: int | Mapping[str, int],
        *,
        hidden: int = 0,
        joint: bool = False,
        net: nn.Module | None = None,
        norm: bool = False,
    ):
        super().__init__()
        self.targets, self.hidden, self.joint = tuple(targets), hidden, joint
        if not targets:
            raise AmodalError("there is nothing to predict: name a label of the data in `label`")
        for target in targets:
            if target.kind not in KINDS:
                raise unknown("kind of target", target.kind, KINDS)
        if isinstance(width, Mapping):
            widths, size = dict(width), sum(width[s] for s in fields)
        else:
            widths = dict.fromkeys(fields, width)
            size = width if joint else width * len(fields)
        self.absent = nn.ParameterDict(
            {} if joint else {s: nn.Parameter(torch.zeros(widths[s])) for s in fields}
        )
        out = sum(target.width for target in targets)
        plain: list[nn.Module] = []
        if hidden and net is None:
            plain = [nn.Linear(size, hidden), *([nn.LayerNorm(hidden)] if norm else []), nn.GELU()]
        self.net = net or nn.Sequential(*plain, nn.Linear(hidden if hidden else size, out))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all targets, each once."""
        return tuple(dict.fromkeys(name for target in self.targets for name in target.labels))

    def forward(self, z: Embeddings | Column) -> Column:
        """Raw outputs, such as logits, of the rows that have any field.

        Args:
            z: Features of the encoder; a joint head also takes its vectors (N, D) alone.

        Returns:
            (N, outputs).
        """
        if isinstance(z, Column):
            inputs = z
        else:
            inputs = z[FUSED] if self.joint else side_by_side(self.absent, z)
        return Column(self.net(inputs.values), inputs.rows)

    @torch.no_grad()
    def predict(self, z: Embeddings) -> Column:
        """As `forward`, without a gradient, of embeddings on any device; on the CPU."""
        device = next(self.net.parameters()).device
        moved = Embeddings({s: c.to(device) for s, c in z.columns.items()}, z.size)
        outputs: Column = self(moved)
        return outputs.to("cpu")

    def split(self, outputs: Column) -> dict[str, Column]:
        """Target -> its part of the outputs."""
        return split(self.targets, outputs)

    def known(self, batch: Batch) -> dict[str, Column]:
        """The labels of a batch, for the features of a method.

        Returns:
            `label/NAME` -> values.

        Raises:
            AmodalError: For a label that the batch does not have.
        """
        for name in self.labels:
            if name not in batch.labels:
                raise unknown("label of this batch", name, batch.labels)
        return {f"label/{name}": batch.labels[name] for name in self.labels}

    def losses(
        self, outputs: Column, known: Embeddings, smoothing: float = 0.0, survival: Survival = cox
    ) -> dict[str, Tensor]:
        """The loss of each target, over the rows that have its label; zero where none has.

        Args:
            outputs: (N, outputs), of `forward`.
            known: Holds what `known` gave.
            smoothing: Of the labels of classes.
            survival: In place of Cox's loss.

        Returns:
            `predict/TARGET` -> cross-entropy, squared error in standard deviations, or Cox's loss.
        """
        terms = {}
        for target in self.targets:
            out, *labels = (
                self.split(outputs)[target.name],
                *(known[f"label/{n}"] for n in target.labels),
            )
            # rows with an output and with all labels: survival needs both its time and its event
            complete = torch.stack([c.present(known.size) for c in (out, *labels)]).all(0)
            rows = complete.nonzero().squeeze(1)
            x = out.flat[torch.searchsorted(out.rows, rows)]
            y = [c.flat[torch.searchsorted(c.rows, rows)] for c in labels]
            terms[f"predict/{target.name}"] = (
                _loss(target, x, y, smoothing, survival) if len(rows) else connected_zero(out.flat)
            )
        return terms

    def distillation_loss(
        self, student: Column, teacher: Column, temperature: float = 1.0
    ) -> Tensor:
        """How far outputs are from a teacher's, on the rows that both have.

        Args:
            student: (N, outputs).
            teacher: (M, outputs), which gets no gradient.
            temperature: Of the softmax over classes.

        Returns:
            () the mean over targets of `distill` for classes and squared error for the others.
        """
        outputs, aims = map(self.split, both(student, teacher))
        terms = [
            _distillation(t, outputs[t.name].flat, aims[t.name].flat, temperature)
            for t in self.targets
        ]
        return torch.stack(terms).mean()

    def predictions(self, outputs: Column) -> dict[str, Tensor]:
        """See `predictions`."""
        return predictions(self.targets, outputs)

    def written(self) -> dict[str, Any]:
        """As a JSON-able dict, which `supervised_head` takes as keyword arguments."""
        return {"targets": [t.written() for t in self.targets], "hidden": self.hidden}


def split(targets: Sequence[Target], outputs: Column) -> dict[str, Column]:
    """Target -> its part of the outputs (N, …) of a head."""
    parts = torch.split(outputs.flat, [target.width for target in targets], 1)
    return {target.name: Column(part, outputs.rows) for target, part in zip(targets, parts)}


@torch.no_grad()
def predictions(targets: Sequence[Target], outputs: Column) -> dict[str, Tensor]:
    """Outputs of a head in the units of their targets.

    Returns:
        Target -> probabilities (N, classes), amounts (N,), or log hazards (N,), the higher the
        sooner.
    """
    result = {}
    for target in targets:
        x = split(targets, outputs)[target.name].flat.float()
        is_classes = target.kind == "classes"
        result[target.name] = (
            x.softmax(1) if is_classes else x.squeeze(1) * target.std + target.mean
        )
    return result


def _loss(
    target: Target, x: Tensor, y: list[Tensor], smoothing: float, survival: Survival
) -> Tensor:
    if target.kind == "classes":
        return cross_entropy(at_least_single(x), y[0], label_smoothing=smoothing)
    if target.kind == "amount":
        amount = at_least_single(x.squeeze(1))
        return mse_loss(amount, (y[0].to(amount.dtype) - target.mean) / target.std)
    return survival(x.squeeze(1), y[0], y[1] == target.event)


def _distillation(target: Target, x: Tensor, aim: Tensor, temperature: float) -> Tensor:
    if target.kind == "classes":
        out: Tensor = distill(x, aim, temperature=temperature)
        return out
    return mse_loss(x.float(), aim.detach().float()) if len(x) else connected_zero(x.float())


def supervised_head(
    encoder: Encoder,
    targets: Sequence[Target | Mapping[str, Any]],
    hidden: int = 0,
    *,
    norm: bool = False,
) -> SupervisedHead:
    """The head that fits the features of an encoder.

    Args:
        encoder: Its pools say whether features are fused.
        targets: Targets, or what `Target.written` makes of them.
        hidden, norm: See `SupervisedHead`.
    """
    made, fields = [Target.read(t) for t in targets], list(encoder.fields)
    if FUSED in encoder.pools:
        width = encoder.feature_width(FUSED)
        return SupervisedHead(made, fields, width, hidden=hidden, joint=True, norm=norm)
    widths = {f: encoder.feature_width(f) for f in fields}
    return SupervisedHead(made, fields, widths, hidden=hidden, norm=norm)

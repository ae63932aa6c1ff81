"""Which labels an evaluation predicts: those that are named, else the usual ones of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amodal.core import AmodalError, unknown
from amodal.core.argument_types import check_type, is_list_of_words
from amodal.data import Dataset
from amodal.inference.embed import known

USUAL = (
    "label",
    "labels",
    "class",
    "target",
    "category",
    "species",
    "folder",
    "kind",
    "type",
    "genre",
    "diagnosis",
    "y",
)
"""What people call the label that they care about."""


@dataclass(frozen=True)
class LabelChoice:
    """The labels of one evaluation.

    Args:
        names: All of them, in order.
        times: Those that are a survival time, TIME,EVENT.
        declared: The survival time that the data declares, "" if there is none.
        named: Whether the caller chose them.
    """

    names: tuple[str, ...]
    times: tuple[str, ...] = ()
    declared: str = ""
    named: bool = False

    @staticmethod
    def of(dataset: Dataset, label: str | Sequence[str] | None) -> LabelChoice:
        """The labels for a dataset.

        Args:
            dataset: The records.
            label: One or more names, "TIME,EVENT" for a survival time; None for the usual ones.

        Raises:
            AmodalError: For a label that is unknown or that no record has.
        """
        declared = survival_label(dataset)
        if label is None:
            names = usual_label(dataset) + [name for name in [declared] if name]
        else:
            check_type(
                "label",
                [label] if isinstance(label, str) else label,
                is_list_of_words,
                "a name or a list of names",
            )
            names = [label] if isinstance(label, str) else list(label)
        times = tuple(n for n in names if "," in n and n not in dataset.labels)
        choice = LabelChoice(tuple(names), times, declared, label is not None)
        for name in choice.columns() if choice.named else []:
            _check_known(dataset, name)
        return choice

    @property
    def single(self) -> list[str]:
        """The labels that are one column each."""
        return [n for n in self.names if n not in self.times]

    def columns(self) -> list[str]:
        """The columns that are read, those of a survival time one by one."""
        return [
            n.strip()
            for name in self.names
            for n in (name.split(",") if name in self.times else [name])
        ]


def _check_known(dataset: Dataset, name: str) -> None:
    if not known(dataset.label(name)).any():  # `label` raises for a name that is none
        have = [n for n in dataset.labels if n != name and known(dataset.label(n)).any()]
        others = ", ".join(have) or "none"
        raise AmodalError(
            f"none of the {len(dataset):,} records has the label {name!r}. "
            f"Labels that some have: {others}."
        )


def survival_label(dataset: Dataset) -> str:
    """The survival time of a dataset as "TIME,EVENT".

    It is the first time whose event dataset.toml names, else `time` with `event`; "" without
    either.

    Raises:
        AmodalError: If dataset.toml names an unknown event.
    """
    for name, label in dataset.labels.items():
        event = label.event or ("event" if name == "time" and "event" in dataset.labels else "")
        if label.kind == "number" and event:
            if event not in dataset.labels:
                raise unknown(
                    "label of this dataset", event, dataset.labels, f"It is the event of {name!r}."
                )
            return f"{name},{event}"
    return ""


def usual_label(dataset: Dataset) -> list[str]:
    """The label that is predicted where none is named, [] without one.

    A category with a usual name, else the one with the fewest classes (2 to 100 if possible), else
    a number. Ties go to the first in the data.
    """

    def rank(name: str) -> tuple[int, bool, bool, int]:
        if dataset.labels[name].kind != "category":
            return 1, False, False, 0
        values = dataset.label(name)
        classes = len(set(values[known(values)]))
        return 0 if classes > 1 else 2, name.lower() not in USUAL, classes > 100, classes

    # whether the event came is no class: for many records it is still to come
    survival = survival_label(dataset).split(",")
    chosen = [n for n in dataset.labels if n not in survival and known(dataset.label(n)).any()]
    return sorted(chosen, key=rank)[:1]

"""Records unlike the others of their class: mislabelled ones, and those of a rare kind.

Rizhko and Bloom 2024, arXiv:2411.08842: a low mean cosine to the members of a record's own class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.diagnose.disagreement import unlike_class
from amodal.evaluate.labels import classes_of, codes, is_number
from amodal.inference.embed import Embedded

MOST = 10
"""Records that are named."""
CLEARLY = 2.0
"""Standard deviations above the mean, from which a record is named."""


@dataclass(frozen=True)
class ClassOutlier:
    """A record that is unlike its class.

    Args:
        key: Of the record.
        own: Its class.
        nearest: The class whose other members it is most alike.
        score: One minus its mean cosine to the others of its class, less the mean of that over the
            class; a mean over fields.
    """

    key: str
    own: str
    nearest: str
    score: float


def class_outliers(z: Embedded, label: str) -> list[ClassOutlier]:
    """The records that are least like others of their class, clearly less than most.

    Args:
        z: Records with the label.
        label: Of classes.

    Returns:
        At most `MOST` of them, the oddest first.

    Raises:
        AmodalError: For a label of numbers, and without two classes of three records.
    """
    if label not in z.labels:
        raise AmodalError(f"these records have no label {label!r}")
    if is_number(z.labels[label]):
        raise AmodalError(
            f"the label {label!r} is a number, and outliers are records unlike their class: take a "
            "label of classes"
        )
    names = classes_of(z.labels[label])
    class_N = torch.from_numpy(codes(z.labels[label], names))
    score_N, count_N = torch.zeros(len(z)), torch.zeros(len(z))
    like_NC = torch.zeros(len(z), len(names))
    for source in z.features.sources:
        column = z.features[source]
        some = _of_large_classes(class_N[column.rows], len(names))
        rows, x_ND = column.rows[some], vectors_of(column)[some].float()
        if not len(rows):
            continue
        own = class_N[rows]
        # without what all records have in common, which cosines would be about otherwise
        x_ND = normalize(x_ND - x_ND.mean(0), dim=1)
        score = unlike_class(x_ND, own)
        score_N[rows] += score - _mean_of_class(score, own, len(names))[own]
        like_NC[rows] += _likeness(x_ND, own, len(names))
        count_N[rows] += 1
    scored = count_N.nonzero().squeeze(1)
    if len(class_N[scored].unique()) < 2:
        raise AmodalError(
            f"records are unlike their class where there are two of three records or more, and "
            f"{label!r} has no two such classes here"
        )
    score = score_N[scored] / count_N[scored]
    least = float(score.mean() + CLEARLY * score.std())
    found = []
    for place in score.argsort(descending=True, stable=True)[:MOST].tolist():
        row = int(scored[place])
        if float(score[place]) > least:
            nearest = names[int(like_NC[row].argmax())]
            own_name = names[int(class_N[row])]
            found.append(ClassOutlier(z.keys[row], own_name, nearest, float(score[place])))
    return found


def outlier_tables(outliers: Sequence[ClassOutlier], by_untrained: Collection[str]) -> list[Table]:
    """A table for a terminal; none without outliers.

    Args:
        outliers: To be shown.
        by_untrained: Keys of those that the encoder names before training too.
    """
    if not outliers:
        return []
    shown = Table(
        title="records unlike the others of their class (mislabelled, or of a rare kind?)",
        caption="unlike: one minus the mean cosine to the others of its class, less the mean of "
        "that over the class\nuntrained: whether the encoder names it before training too",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("record", "class", "most alike", "unlike", "untrained"):
        shown.add_column(heading, justify="right" if heading == "unlike" else "left")
    for o in outliers:
        before = "yes" if o.key in by_untrained else ""
        shown.add_row(*map(escape, (o.key, o.own, o.nearest, f"{o.score:+.2f}", before)))
    return [shown]


def _of_large_classes(class_n: Tensor, classes: int) -> Tensor:
    """(n,) bool, which records have a class with two others in it."""
    count = torch.bincount(class_n.clamp(min=0)[class_n >= 0], minlength=classes)
    return (class_n >= 0) & (count[class_n.clamp(min=0)] >= 3)


def _mean_of_class(score_n: Tensor, class_n: Tensor, classes: int) -> Tensor:
    total = torch.zeros(classes).index_add(0, class_n, score_n)
    return total / torch.bincount(class_n, minlength=classes).clamp(min=1)


def _likeness(unit_nD: Tensor, class_n: Tensor, classes: int) -> Tensor:
    """(n, classes), the mean cosine to the other members of each class; -1 for none of them."""
    total = torch.zeros(classes, unit_nD.shape[1]).index_add(0, class_n, unit_nD)
    count = torch.bincount(class_n, minlength=classes).float()
    own = torch.nn.functional.one_hot(class_n, classes).float()
    others = count - own
    cosine = (unit_nD @ total.T - own * unit_nD.square().sum(1, keepdim=True)) / others.clamp(min=1)
    return torch.where(others > 0, cosine, -torch.ones(()))

"""Generalisation from base to new classes: zero-shot accuracy on the half of the classes that a run
was adapted to (`amodal adapt --base-to-new`), on the other half, and the harmonic mean.

A run that predicts the label itself also names base classes by its own head, as it was trained to,
and new ones by their names: decoupled inference, arXiv:2503.08497, 3.4.

Zhou et al., CVPR 2022, arXiv:2203.05557, 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from amodal.core.embeddings import FUSED
from amodal.evaluate.base_and_new import BaseToNew as BaseAndNew
from amodal.evaluate.base_and_new import base_and_new
from amodal.evaluate.base_and_new import base_to_new as halves
from amodal.evaluate.labels import NotApplicable, codes
from amodal.evaluate.needed_records import labelled, no_record
from amodal.evaluate.needs import LABEL, OPTIONAL_HEAD, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.head import outputs
from amodal.evaluate.protocols.zero_shot import TEMPLATES, likeness
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.inference.heads import AnyHead
from amodal.nn.heads.supervised import SupervisedHead


def base_to_new(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str = "text",
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    head: AnyHead | None = None,
) -> Result:
    """Classify every record among the classes of its own half.

    Args:
        train: Training records; they only add classes.
        test: Test records.
        label: What is predicted.
        embed_text: See `zero_shot`.
        text: See `zero_shot`.
        templates: See `zero_shot`.
        names: See `zero_shot`.
        head: The run's own; if it knows the base classes and no others, it names them too.

    Raises:
        NotApplicable: For fewer than two classes in a half, and if no field has records of both.
    """
    spec, likenesses = likeness(train, test, label, embed_text, text, templates, names)
    classes = list(spec["prompts"])
    if len(classes) < 4:
        raise NotApplicable(
            f"base and new classes need two each, and {label!r} has {len(classes)} in all"
        )
    base, new = base_and_new(classes)
    is_base, rows = np.isin(classes, base), []
    for source, (truth, like) in likenesses.items():
        of_base = is_base[truth]
        if not of_base.any() or of_base.all():
            continue
        score, counts = halves(like, truth, is_base), (int(of_base.sum()), int((~of_base).sum()))
        rows += rows_of(source, score, counts, (len(base), len(new)))
        own = own_accuracy(head, test, label, base)
        if own is not None:
            decoupled = BaseAndNew(own[0], score.new)
            rows += rows_of(
                f"{source}, base by the head", decoupled, (own[1], counts[1]), (len(base), len(new))
            )
    if not rows:
        raise NotApplicable(f"no field has test records of both halves of the classes of {label!r}")
    return Result("base_to_new", spec | {"base": base, "new": new}, rows)


def rows_of(
    source: str, score: BaseAndNew, counts: tuple[int, int], classes: tuple[int, int]
) -> list[Row]:
    """Rows of one way to name classes.

    Args:
        source: Its name.
        score: Both accuracies.
        counts: Records of base and of new classes.
        classes: How many base and new classes there are.
    """
    values = (
        ("base", score.base, 1 / classes[0], counts[0]),
        ("new", score.new, 1 / classes[1], counts[1]),
        ("harmonic mean", score.harmonic, 2 / sum(classes), sum(counts)),
    )
    return [
        {
            "source": source,
            "target": name,
            "metric": "accuracy",
            "value": value,
            "chance": chance,
            "n": n,
        }
        for name, value, chance, n in values
    ]


def own_accuracy(
    head: AnyHead | None, test: Embedded, label: str, base: Sequence[str]
) -> tuple[float, int] | None:
    """How often a head names the records of base classes, and how many there are; None for a head
    that does not know these classes alone."""
    target = next((t for t in head.targets if t.name == label), None) if head is not None else None
    reads_records = not isinstance(head, SupervisedHead)
    if head is None or target is None or sorted(target.classes) != sorted(base):
        return None
    if reads_records and test.perturbed_forward is None:
        return None
    column = outputs(test, head)[FUSED]
    predicted = head.predictions(column)[label].numpy().argmax(1)
    truth = codes(test.labels[label], target.classes)[column.rows.numpy()]
    is_base = truth >= 0
    if not is_base.any():
        return None
    return float((predicted == truth)[is_base].mean()), int(is_base.sum())


class BaseToNew(Protocol):
    """Accuracy on classes that a run was adapted to, and on others."""

    name, needs, needed = "base_to_new", (LABEL, TEXT_PROMPTS, OPTIONAL_HEAD), (no_record, labelled)
    default = False
    measure = staticmethod(base_to_new)


PROTOCOL = BaseToNew()

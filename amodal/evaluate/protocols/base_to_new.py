"""Generalisation from base to new classes: zero-shot accuracy on the half of the classes that a run
was adapted to (`amodal adapt --base-to-new`), on the other half, and the harmonic mean.

Zhou et al., CVPR 2022, arXiv:2203.05557, 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from amodal.evaluate.base_and_new import base_and_new
from amodal.evaluate.base_and_new import base_to_new as halves
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import labelled, no_record
from amodal.evaluate.needs import LABEL, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.zero_shot import TEMPLATES, likeness
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded


def base_to_new(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str = "text",
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
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
        score = halves(like, truth, is_base)
        for name, value, chance, n in (
            ("base", score.base, 1 / len(base), of_base.sum()),
            ("new", score.new, 1 / len(new), (~of_base).sum()),
            ("harmonic mean", score.harmonic, 2 / (len(base) + len(new)), len(of_base)),
        ):
            rows.append(
                {
                    "source": source,
                    "target": name,
                    "metric": "accuracy",
                    "value": value,
                    "chance": chance,
                    "n": int(n),
                }
            )
    if not rows:
        raise NotApplicable(f"no field has test records of both halves of the classes of {label!r}")
    return Result("base_to_new", spec | {"base": base, "new": new}, rows)


class BaseToNew(Protocol):
    """Accuracy on classes that a run was adapted to, and on others."""

    name, needs, needed = "base_to_new", (LABEL, TEXT_PROMPTS), (no_record, labelled)
    default = False
    measure = staticmethod(base_to_new)


PROTOCOL = BaseToNew()

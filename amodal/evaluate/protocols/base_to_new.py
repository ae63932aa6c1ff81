"""From base to new classes: how well a run tells, by their names, the half of the classes that it
was adapted to (`amodal adapt --base-to-new`), and the half that it was not; and the harmonic mean
of the two. Zhou et al., CVPR 2022, arXiv:2203.05557, 4.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from amodal.evaluate.base_and_new import base_and_new
from amodal.evaluate.base_and_new import base_to_new as halves
from amodal.evaluate.labels import NotApplicable
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
    """Every record is told among the classes of its own half. Arguments as for `zero_shot`."""
    spec, found = likeness(train, test, label, embed_text, text, templates, names)
    classes = list(spec["prompts"])
    if len(classes) < 4:
        raise NotApplicable(
            f"base and new classes need two each, and {label!r} has {len(classes)} in all"
        )
    base, new = base_and_new(classes)
    is_base, rows = np.isin(classes, base), []
    for source, (truth, like) in found.items():
        own = is_base[truth]
        if not own.any() or own.all():
            continue
        score = halves(like, truth, is_base)
        chance = {"base": 1 / len(base), "new": 1 / len(new)}
        chance["harmonic mean"] = 2 / (len(base) + len(new))
        for name, value in (
            ("base", score.base),
            ("new", score.new),
            ("harmonic mean", score.harmonic),
        ):
            n = {"base": own.sum(), "new": (~own).sum()}.get(name, len(own))
            rows.append(
                {
                    "source": source,
                    "target": name,
                    "metric": "accuracy",
                    "value": value,
                    "chance": chance[name],
                    "n": int(n),
                }
            )
    if not rows:
        raise NotApplicable(f"no field has test records of both halves of the classes of {label!r}")
    return Result("base_to_new", spec | {"base": base, "new": new}, rows)


class BaseToNew(Protocol):
    """Classes that a run was adapted to against classes that it was not."""

    name, needs = "base_to_new", (LABEL, TEXT_PROMPTS)
    default = False
    measure = staticmethod(base_to_new)


PROTOCOL = BaseToNew()

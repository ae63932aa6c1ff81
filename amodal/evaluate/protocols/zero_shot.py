"""Zero-shot classification: the class whose name, put into a sentence, lies nearest. Radford et al.
2021, arXiv:2103.00020, 3.1.

A class's vector is the mean of the unit vectors of its prompts (one for each template), as in
section 3.1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.evaluate.knowledge_prompts import Knowledge, knowledge_prompts
from amodal.evaluate.labels import NotApplicable, classes_of, codes, is_number, of_categories
from amodal.evaluate.needs import LABEL, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known

TEMPLATES = ("{}",)


def zero_shot(
    train: Embedded | None,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str = "text",
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    knowledge: Knowledge | None = None,
) -> Result:
    """embed_text: sentences -> (n, D) vectors in the aligned space; text: the field it speaks for,
    which is not classified itself.

    templates: sentences with {} for the class; names: class -> the words to put there ("_" becomes
    a space unless given); knowledge: class -> phrases that are put after its name (see
    `_knowledge.py`). `train` only adds classes that the test records lack.
    """
    spec, found = likeness(train, test, label, embed_text, text, templates, names, knowledge)
    rows, classes = [], len(spec["prompts"])
    for source, (truth, like) in found.items():
        guess = like.argmax(1)
        # nobody has seen a label, so chance is a blind guess and not the commonest class
        rows += [
            {"source": source, **row, "chance": 1 / classes}
            for row in of_categories(truth, guess, 0)
        ]
    return Result("zero_shot", spec, rows)


def likeness(
    train: Embedded | None,
    test: Embedded,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str,
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    knowledge: Knowledge | None = None,
) -> tuple[dict, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What was asked, and field -> true classes (n,) and likeness (n, C) of the test records that
    have it and the label, classes as `prompts` has them. Arguments as for `zero_shot`. Raises
    NotApplicable where no field has such records."""
    labels = test.label(label)
    if is_number(labels):
        raise NotApplicable(f"the label {label!r} is a number, and numbers have no class names")
    for template in templates:
        if template.count("{}") != 1:
            raise AmodalError(
                f"a template needs one {{}} where the class name goes, got {template!r}"
            )
    classes = classes_of(
        labels if train is None or label not in train.labels else [*labels, *train.labels[label]]
    )
    names = knowledge_prompts(classes, knowledge) | dict(names or {}) if knowledge else names
    prompts = {
        c: [t.format((names or {}).get(c, c.replace("_", " "))) for t in templates] for c in classes
    }
    vectors = normalize(embed_text([p for c in classes for p in prompts[c]]).float().cpu(), dim=1)
    prototypes = normalize(vectors.view(len(classes), len(templates), -1).mean(1), dim=1)
    truth, there = codes(labels, classes), known(labels)
    found = {}
    for source in test.sources:
        column = test.aligned[source]
        labelled = there[column.rows.numpy()]
        if source == text or labelled.sum() < 2:
            continue
        like = normalize(column.values[torch.from_numpy(labelled)].float(), dim=1) @ prototypes.T
        found[source] = (
            truth[column.rows.numpy()[labelled]],
            (like.abs() if test.unsigned else like).numpy(),
        )
    if not found:
        raise NotApplicable(f"no field other than {text!r} has records with the label {label!r}")
    spec = {
        "label": label,
        "kind": "category",
        "text": text,
        "templates": list(templates),
        "prompts": prompts,
    }
    return spec | {"space": "aligned", "test": len(test)}, found


class ZeroShot(Protocol):
    """Classes named by words."""

    name, needs = "zero_shot", (LABEL, TEXT_PROMPTS)
    rank = 70
    measure = staticmethod(zero_shot)


PROTOCOL = ZeroShot()

"""Zero-shot classification: the class whose name, in a sentence, is nearest. Radford et al. 2021,
arXiv:2103.00020, 3.1.

The vector of a class is the mean of the unit vectors of its prompts, one for each template (section
3.1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.inference.knowledge_prompts import Knowledge, knowledge_prompts
from amodal.evaluate.labels import NotApplicable, classes_of, classification_rows, codes, is_number
from amodal.evaluate.needed_records import labelled, no_record
from amodal.evaluate.needs import LABEL, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Spec
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
    """Classify records of each field by prompts.

    Args:
        train: Only adds classes that the test records lack.
        test: Test records.
        label: The classes.
        embed_text: Sentences -> (n, D) vectors of the aligned space.
        text: The field of the prompts, which is not classified itself.
        templates: Sentences with {} for the class.
        names: class -> the words to put there; "_" becomes a space for others.
        knowledge: class -> phrases that follow its name, see `amodal.inference.knowledge_prompts`.

    Raises:
        NotApplicable: See `likeness`.
        AmodalError: For a template without {}.
    """
    spec, likenesses = likeness(train, test, label, embed_text, text, templates, names, knowledge)
    rows, classes = [], len(spec["prompts"])
    for source, (truth, like) in likenesses.items():
        who = _labelled(test, source, label)
        # no label was seen, so chance is a blind guess and not the most frequent class
        shares = np.unique(truth, return_counts=True)[1] / len(truth)
        blind = {"macro F1": float(np.mean(2 * shares / (classes * shares + 1)))}
        for row in classification_rows(truth, like.argmax(1), 0, who=who):
            chance = blind.get(row["metric"], 1 / classes)
            rows.append({"source": source, **row, "chance": chance})
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
) -> tuple[Spec, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Similarity of records and the prompts of all classes.

    Args:
        train: See `zero_shot`.
        test: See `zero_shot`.
        label: See `zero_shot`.
        embed_text: See `zero_shot`.
        text: See `zero_shot`.
        templates: See `zero_shot`.
        names: See `zero_shot`.
        knowledge: See `zero_shot`.

    Returns:
        The spec, with `prompts` of each class; field -> true classes (n,) and similarities (n, C)
        of the test records that have it and the label, in the order of `prompts`.

    Raises:
        NotApplicable: If the label is a number, or no field has labelled records.
        AmodalError: For a template without {}.
    """
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
    truth = codes(labels, classes)
    likenesses = {}
    for source in test.sources:
        column = test.aligned[source]
        labelled = known(labels)[column.rows.numpy()]
        if source == text or labelled.sum() < 2:
            continue
        vectors = normalize(vectors_of(column)[torch.from_numpy(labelled)].float(), dim=1)
        cosine = vectors @ prototypes.T
        likenesses[source] = (
            truth[column.rows.numpy()[labelled]],
            (cosine.abs() if test.abs_cosine else cosine).numpy(),
        )
    if not likenesses:
        raise NotApplicable(f"no field other than {text!r} has records with the label {label!r}")
    spec = {
        "label": label,
        "kind": "category",
        "text": text,
        "templates": list(templates),
        "prompts": prompts,
    }
    return spec | {"space": "aligned", "test": len(test)}, likenesses


def _labelled(test: Embedded, source: str, label: str) -> np.ndarray:
    """(n,) numbers of the test records that have the source and the label."""
    rows = test.aligned[source].rows.numpy()
    numbers: np.ndarray = rows[known(test.label(label))[rows]]
    return numbers


class ZeroShot(Protocol):
    """Classes named by words."""

    name, needs, needed = "zero_shot", (LABEL, TEXT_PROMPTS), (no_record, labelled)
    rank = 70
    against_chance = True
    measure = staticmethod(zero_shot)


PROTOCOL = ZeroShot()

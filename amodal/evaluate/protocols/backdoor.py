"""What a backdoor does: how often pictures with its trigger are taken for the attacker's class.

Attack success rate as in Bansal et al. 2023 (CleanCLIP), arXiv:2303.03323, section 4: zero-shot
classification of test pictures with the trigger on them. Triggers: `amodal.curate.poison`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from amodal.core import Column, Embeddings, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.curate.poison import Blend, Patch, Trigger, Warp
from amodal.evaluate.backdoor import trigger_shift
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import labelled, no_record
from amodal.evaluate.needs import CHANGED_RECORDS, LABEL, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.zero_shot import TEMPLATES, likeness
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import is_picture

TRIGGERS = {"patch": "side", "blend": "weight", "warp": "strength"}
"""Kind of a trigger -> what its size is called."""


def trigger_of(kind: str, size: float, seed: int) -> Trigger:
    """The trigger of a kind.

    Raises:
        AmodalError: For an unknown kind.
    """
    if kind not in TRIGGERS:
        raise unknown("trigger", kind, TRIGGERS)
    sized: dict[str, Any] = {TRIGGERS[kind]: size} if size else {}
    kinds: dict[str, Callable[..., Trigger]] = {"patch": Patch, "blend": Blend, "warp": Warp}
    return kinds[kind](seed=seed, **sized)


def backdoor(
    train: Embedded | None,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    target: str,
    text: str = "text",
    trigger: str = "patch",
    size: float = 0.0,
    trigger_seed: int = 0,
    templates: Sequence[str] = TEMPLATES,
) -> Result:
    """Classify pictures with and without a trigger by the names of classes.

    Rows, of each field of pictures: "attack success rate", the share of pictures of other classes
    that are taken for the target with the trigger on them, whose `chance` is that share without it;
    "accuracy" without the trigger; and "shift", 1 - cosine of the vectors of a picture with and
    without it.

    Args:
        train: Not read.
        test: Test records.
        label: The classes.
        embed_text: See `zero_shot`.
        target: The class that the attacker wants.
        text: See `zero_shot`.
        trigger: "patch" (BadNets), "blend" or "warp" (WaNet).
        size: Share of the side of a patch, weight of blended noise or strength of a warp; 0 for
            that of `amodal.curate.poison`.
        trigger_seed: Of the noise or the displacements.
        templates: Sentences with {} for a class.

    Raises:
        NotApplicable: Without a field of pictures whose records have the label.
        AmodalError: For an unknown trigger, and a target that is no class.
    """
    stamp = trigger_of(trigger, size, trigger_seed)
    spec, plain = likeness(None, test, label, embed_text, text, templates)
    classes = list(spec["prompts"])
    if target not in classes:
        raise unknown(f"class of {label}", target, classes)
    number, rows = classes.index(target), list[Row]()
    assert test.perturbed_forward is not None
    fields = test.perturbed_forward.fields
    for source in (s for s in plain if is_picture(fields[s])):
        changed = with_trigger(test, source, stamp)
        truth, like = plain[source]
        triggered = likeness(None, changed, label, embed_text, text, templates)[1][source][1]
        rows += figures(truth, like, triggered, number, source)
        moved = trigger_shift(*(vectors_of(z.aligned[source]) for z in (test, changed)))
        rows.append({"source": source, "metric": "shift", "value": moved, "n": len(truth)})
    if not rows:
        raise NotApplicable("it needs a field of pictures with labelled test records")
    return Result("backdoor", spec | {"target": target, "trigger": repr(stamp)}, rows)


def with_trigger(test: Embedded, source: str, trigger: Trigger) -> Embedded:
    """The records with vectors of pictures that have the trigger."""
    column, forward = test.aligned[source], test.perturbed_forward
    assert forward is not None

    def stamped(
        modality: Modality, value: np.ndarray, other: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return trigger(value)

    z = forward(source, stamped, column.rows.tolist())
    vectors = Column(vectors_of(z[source]), column.rows)
    aligned = {s: c for s, c in test.aligned.columns.items() if s != source} | {source: vectors}
    return replace(test, aligned=Embeddings(aligned, len(test)))


def figures(
    truth: np.ndarray, plain: np.ndarray, triggered: np.ndarray, target: int, source: str
) -> list[Row]:
    """Attack success rate and accuracy.

    Args:
        truth: (n,) classes of the pictures.
        plain, triggered: (n, C) similarities of pictures without and with the trigger.
        target: The class that the attacker wants.
        source: The field.

    Raises:
        NotApplicable: If all pictures are of the target.
    """
    others = truth != target
    if not others.any():
        raise NotApplicable("every picture is of the target, and none could be mistaken for it")
    before, after = (like.argmax(1) for like in (plain, triggered))
    success, blind = (float((guess[others] == target).mean()) for guess in (after, before))
    return [
        {
            "source": source,
            "metric": "attack success rate",
            "value": success,
            "chance": blind,
            "n": int(others.sum()),
        },
        {
            "source": source,
            "metric": "accuracy",
            "value": float((before == truth).mean()),
            "chance": 1 / plain.shape[1],
            "n": len(truth),
        },
    ]


class Backdoor(Protocol):
    """Attack success rate of a trigger."""

    name, needs, needed = (
        "backdoor",
        (LABEL, TEXT_PROMPTS, CHANGED_RECORDS),
        (no_record, labelled),
    )
    rank, default = 190, False
    headlines = ("attack success rate", "accuracy", "shift")
    measure = staticmethod(backdoor)


PROTOCOL = Backdoor()

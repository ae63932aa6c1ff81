"""How good prompts can get: zero-shot accuracy by class names and by 1, 2, 4, … captions of the
class, the limit of that, and the terms of the loss.

Terms of Mehta and Harchaoui, ICML 2025, arXiv:2507.09128 (`amodal.diagnose.zsp_theory`). Captions
of a class are those of training records with its label; they classify the test records.

How to read it: If class names are far below captions and their bias is large, write prompts like
captions. If the limit is far below the probe, captions do not say what decides the label
(`dependence`), or the towers do not hold it (`contingency`), and no prompt will help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import vectors as vectors_of
from amodal.diagnose.zsp_theory import (
    cca_spectrum,
    limit,
    prompt_bias,
    prompt_curve,
    residual_dependence,
)
from amodal.evaluate.labels import NotApplicable, classes_of, codes, is_number
from amodal.evaluate.needs import LABEL, TEXT_PROMPTS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.linear import linear
from amodal.evaluate.protocols.zero_shot import TEMPLATES
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded


def prompts(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str = "text",
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Result:
    """Measure prompts for each field but `text`.

    Rows: "accuracy" with target "class names", "captions, limit" and "probe" (logistic, on the
    trunk's features); "accuracy, M captions"; squared errors "risk, captions" and "risk, both" and
    their difference "dependence" (`residual_dependence`); "contingency", the sum of squared
    held-out correlations of the pairs; "bias of class names" and "bias of captions", means over
    classes.

    Args:
        train: Training records; classes with fewer than four captions are left out.
        test: Test records.
        label: The classes.
        embed_text: See `zero_shot`.
        text: See `zero_shot`.
        templates: See `zero_shot`.
        names: See `zero_shot`.
        draws: Of captions, whose mean and standard deviation is reported.
        seed: Of the draws.

    Raises:
        NotApplicable: If the label is a number, the space is compared by |cosine|, or there are too
            few captions.
    """
    if is_number(test.label(label)):
        raise NotApplicable(f"the label {label!r} is a number, and numbers have no class names")
    if test.abs_cosine:
        raise NotApplicable(
            "in this encoder's space a vector and its opposite are the same, "
            "so prompts have no mean"
        )
    kinds = classes_of(train.label(label))
    captions, y = _of_classes(train, text, label, kinds)
    kinds = [c for number, c in enumerate(kinds) if int((y == number).sum()) >= 4]
    if len(kinds) < 2:
        raise NotApplicable(
            f"fewer than two classes of {label!r} have four training records with {text!r}"
        )
    captions, y = _of_classes(train, text, label, kinds)
    named = {
        c: [t.format((names or {}).get(c, c.replace("_", " "))) for t in templates] for c in kinds
    }
    vectors = normalize(embed_text([p for c in kinds for p in named[c]]).float().cpu(), dim=1)
    class_of = torch.arange(len(kinds)).repeat_interleave(len(templates))
    names_ = normalize(vectors.view(len(kinds), len(templates), -1).mean(1), dim=1)
    unit = normalize(captions, dim=1)
    half = torch.arange(len(unit)) % 2 == 0
    biases = {
        "bias of class names": prompt_bias(vectors, class_of, unit, y),
        "bias of captions": prompt_bias(unit[half], y[half], unit[~half], y[~half]),
    }
    rows: list[Row] = []
    for source in test.sources:
        seen, truth = _of_classes(test, source, label, kinds)
        if source == text or len(seen) < 2:
            continue
        shared = {"source": source, "chance": 1 / len(kinds), "n": len(seen)}
        curve = prompt_curve(seen, truth, captions, y, draws=draws, seed=seed)
        rows += [shared | row for row in _accuracies(seen, truth, names_, curve)]
        for row in linear(train, test, label=label, sources=[source]).rows:
            if row["metric"] == "accuracy":
                rows.append(row | {"target": "probe"})
        for point in curve:
            metric = f"accuracy, {int(point['prompts'])} captions"
            rows.append(
                shared | {"metric": metric, "value": 1 - point["error"], "std": point["std"]}
            )
        rows += _terms(train, test, source, text, label, kinds, seed)
        shared = {"source": source, "target": text, "chance": 0.0}
        shared["n"] = len(_pairs(train, source, text)[0])
        for metric, bias in biases.items():
            if bias:
                rows.append(shared | {"metric": metric, "value": sum(bias.values()) / len(bias)})
    if not rows:
        raise NotApplicable(f"no field other than {text!r} has records with the label {label!r}")
    spec: Spec = {
        "label": label,
        "kind": "category",
        "text": text,
        "templates": list(templates),
        "prompts": named,
        "draws": draws,
        "seed": seed,
        "space": "aligned",
        "train": len(train),
        "test": len(test),
    }
    return Result("prompts", spec, rows)


def _accuracies(
    seen_ND: Tensor, truth_N: Tensor, names_KD: Tensor, curve: Sequence[dict[str, float]]
) -> list[Row]:
    """Accuracy by class names, and by captions without end."""
    right = (normalize(seen_ND, dim=1) @ names_KD.T).argmax(1) == truth_N
    values = {"class names": float(right.double().mean()), "captions, limit": 1 - limit(curve)[0]}
    return [{"target": t, "metric": "accuracy", "value": v} for t, v in values.items()]


def _terms(
    train: Embedded,
    test: Embedded,
    source: str,
    text: str,
    label: str,
    kinds: Sequence[str],
    seed: int,
) -> list[Row]:
    """Risks, dependence and contingency of one field and the captions."""
    x, z, rows_ = _pairs(train, source, text)
    shared = {"source": source, "target": text, "chance": 0.0, "n": len(x)}
    labels = torch.from_numpy(codes(train.label(label)[rows_.numpy()], kinds))
    labelled = labels >= 0
    rows: list[Row] = []
    if int(labelled.sum()) >= 20:
        risks = residual_dependence(x[labelled], z[labelled], labels[labelled], seed=seed)
        for name, risk in risks.items():
            metric = name if name == "dependence" else f"risk, {name}"
            rows.append(shared | {"metric": metric, "value": risk})
    test_x, test_z, _ = _pairs(test, source, text)
    if len(x) > 2 and len(test_x) > 2:
        spectrum = cca_spectrum(x, z, held_out=(test_x, test_z))
        contingency = float(spectrum.clamp(min=0).square().sum())
        rows.append(shared | {"metric": "contingency", "value": contingency})
    return rows


def _of_classes(
    embedded: Embedded, source: str, label: str, kinds: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """(n, D) aligned vectors of the records with one of the classes, and (n,) which."""
    column = embedded.aligned[source]
    y = torch.from_numpy(codes(embedded.label(label), kinds))[column.rows]
    return vectors_of(column)[y >= 0].float(), y[y >= 0]


def _pairs(embedded: Embedded, source: str, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """(n, D) twice, the vectors of records that have both, and (n,) their rows."""
    rows, (x, z) = embedded.aligned.complete([source, text])
    return x.float(), z.float(), rows


class Prompts(Protocol):
    """How good prompts can get."""

    name, needs = "prompts", (LABEL, TEXT_PROMPTS)
    default = False
    measure = staticmethod(prompts)


PROTOCOL = Prompts()

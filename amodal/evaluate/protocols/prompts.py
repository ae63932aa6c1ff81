"""How good can prompts get? Zero-shot accuracy by class names and by 1, 2, 4, … captions of the
class, where that ends, and what is lost on the way. The terms of Mehta and Harchaoui, ICML 2025,
arXiv:2507.09128 (`amodal.diagnose.zsp_theory`).

Captions of a class are those of training records with its label; they name the test records. If
class names are far below captions and their bias is large, write prompts like captions; if the
limit is far below the probe, captions do not say what decides the label (`dependence`), or the
towers do not hold it (`contingency`), and no prompt will help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

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
    """embed_text, text, templates, names: as for `zero_shot`. draws: of captions, whose mean and
    standard deviation is given.

    Rows for each field but `text`: "accuracy" to "class names", to "captions, limit" and to "probe"
    (logistic, on the trunk's features); "accuracy, M captions"; in squared error "risk, captions",
    "risk, both" and their difference "dependence" (`residual_dependence`); "contingency", the sum
    of squared held-out correlations of the pairs; "bias of class names" and "bias of captions", the
    mean over classes. Classes with fewer than four captions are left out.
    """
    if is_number(test.label(label)):
        raise NotApplicable(f"the label {label!r} is a number, and numbers have no class names")
    if test.unsigned:
        raise NotApplicable(
            "in this encoder's space a vector and its opposite are the same, so prompts have no mean"
        )
    kinds = classes_of(train.label(label))
    captions, y = _of(train, text, label, kinds)
    kinds = [c for number, c in enumerate(kinds) if int((y == number).sum()) >= 4]
    if len(kinds) < 2:
        raise NotApplicable(
            f"fewer than two classes of {label!r} have four training records with {text!r}"
        )
    captions, y = _of(train, text, label, kinds)
    named = {
        c: [t.format((names or {}).get(c, c.replace("_", " "))) for t in templates] for c in kinds
    }
    vectors = normalize(embed_text([p for c in kinds for p in named[c]]).float().cpu(), dim=1)
    of = torch.arange(len(kinds)).repeat_interleave(len(templates))
    unit = normalize(captions, dim=1)
    half = torch.arange(len(unit)) % 2 == 0
    biases = {
        "bias of class names": prompt_bias(vectors, of, unit, y),
        "bias of captions": prompt_bias(unit[half], y[half], unit[~half], y[~half]),
    }
    rows = []
    for source in test.sources:
        seen, truth = _of(test, source, label, kinds)
        if source == text or len(seen) < 2:
            continue
        row = {"source": source, "chance": 1 / len(kinds), "n": len(seen)}
        curve = prompt_curve(seen, truth, captions, y, draws=draws, seed=seed)
        means = normalize(vectors.view(len(kinds), len(templates), -1).mean(1), dim=1)
        right = float(((normalize(seen, dim=1) @ means.T).argmax(1) == truth).double().mean())
        rows.append(row | {"target": "class names", "metric": "accuracy", "value": right})
        rows.append(
            row | {"target": "captions, limit", "metric": "accuracy", "value": 1 - limit(curve)[0]}
        )
        for found in linear(train, test, label=label, sources=[source]).rows:
            if found["metric"] == "accuracy":
                rows.append(found | {"target": "probe"})
        rows += [
            row
            | {
                "metric": f"accuracy, {c['prompts']} captions",
                "value": 1 - c["error"],
                "std": c["std"],
            }
            for c in curve
        ]
        at = _pairs(train, source, text)
        row = {"source": source, "target": text, "chance": 0.0, "n": len(at[0])}
        labels = torch.from_numpy(codes(train.label(label)[at[2].numpy()], kinds))
        labelled = labels >= 0
        if int(labelled.sum()) >= 20:
            risks = residual_dependence(
                at[0][labelled], at[1][labelled], labels[labelled], seed=seed
            )
            rows += [
                row | {"metric": f"risk, {k}" if k != "dependence" else k, "value": v}
                for k, v in risks.items()
            ]
        held = _pairs(test, source, text)
        if len(at[0]) > 2 and len(held[0]) > 2:
            spectrum = cca_spectrum(*at[:2], held=held[:2])
            rows.append(
                row
                | {"metric": "contingency", "value": float(spectrum.clamp(min=0).square().sum())}
            )
        rows += [
            row | {"metric": k, "value": sum(v.values()) / len(v)} for k, v in biases.items() if v
        ]
    if not rows:
        raise NotApplicable(f"no field other than {text!r} has records with the label {label!r}")
    spec = {
        "label": label,
        "kind": "category",
        "text": text,
        "templates": list(templates),
        "prompts": named,
    }
    spec |= {
        "draws": draws,
        "seed": seed,
        "space": "aligned",
        "train": len(train),
        "test": len(test),
    }
    return Result("prompts", spec, rows)


def _of(embedded: Embedded, source: str, label: str, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(n, D) aligned vectors of the records with one of the classes, and (n,) which."""
    column = embedded.aligned[source]
    y = torch.from_numpy(codes(embedded.label(label), kinds))[column.rows]
    return column.values[y >= 0].float(), y[y >= 0]


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

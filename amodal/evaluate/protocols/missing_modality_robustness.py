"""How robust a representation is to missing and damaged fields: hidden at random or depending on
the label, in training, at test or both; what each field is worth; what to put in the place of an
absent one; what noise in one costs.

On vectors that are made once, so that it works for every encoder and label; only damage reads the
values again. `missing_modality` asks the quick question (every subset of fields, on the records
that have it) and is part of a usual evaluation; this is the long one and is measured when it is
asked for. A probe reads the fused vectors, as in `missing_modality`. `part` of a row says which
question it answers:

random  hidden at random: `source` says how much in training, `target` how much in test. No trace of
        it is lost on the probe's records:
        one that is left with nothing is taken for the average training record.
label   hidden depending on the label (the trap of MultiModN, Swamy et al., NeurIPS 2023,
        arXiv:2309.14118): in training half of the
        classes mostly lose fields 0, 2, … and the other half fields 1, 3, …. In test as in
        training, at random, or the other way round. A probe that reads which fields are there is
        right as in training and wrong the other way round. `source`: fused; fused, trained at
        random; side by side (with zeros for absent fields); presence (nothing but which fields
        there are). `leaked`: how far a probe falls from the first to the last, less what the one
        trained at random falls, as the fields that are left to a class are then others and may say
        more or less.
leak    presence alone, as the data has it: above chance, which fields a record has says something
        of its label.
ways    what stands in for an absent field (`imputation`), and which of them a part of the training
        records chose.
subset  the fields of `source` alone, of all records; worth: Shapley's, and of the field alone and
        added as the last.
exchange, drop, noise  one field damaged, see `corruption`; `full` undamaged, `lost` the difference,
                       `without` the field hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.evaluate import corruption as _corrupt
from amodal.evaluate import imputation as _impute
from amodal.evaluate.labels import NotApplicable, label_spec
from amodal.evaluate.missing_modalities import (
    STRENGTH,
    FieldVectors,
    Judge,
    depending,
    halves,
    or_mean,
    side_by_side,
)
from amodal.evaluate.needs import CHANGED_RECORDS, LABEL, TWO_FIELDS, two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.missing_modality import PROBES
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded
from amodal.stats.shapley import powerset, shapley

MOST_FIELDS = 6
"""Above which subsets are too many for an exact worth."""


def missing_modality_robustness(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    probe: str = "linear",
    rates: Sequence[float] = (0.3, 0.6, 0.9),
    severities: Sequence[float] = (0.25, 0.5, 0.75),
    records: int = 4000,
) -> Result:
    """few, draws, seed: see `measure`; seed also decides what is hidden. probe: "linear" or "knn".
    rates: shares of the values that are hidden. severities: of damage to one field, see
    `corruption`; (): none, which spares running the encoder again. records: of training and of test
    at most, chosen by a hash of their keys."""
    two_fields(test)
    if probe not in PROBES:
        raise unknown("probe", probe, PROBES)
    for name, shares in (("rates", rates), ("severities", severities)):
        if not all(0 < share <= 1 for share in shares):
            raise AmodalError(f"{name} = {tuple(shares)}: shares above 0 and at most 1 are needed")
    learn, seen = FieldVectors.of(train, records, seed), FieldVectors.of(test, records, seed)
    judge = Judge(PROBES[probe], learn.label(label), seen.label(label), few, draws, seed)
    study = Study(learn, seen, judge, tuple(rates), seed)
    rows = [*study.natural(tuple(severities)), *study.random(), *study.ways(), *study.by_label()]
    spec = label_spec(label, learn.label(label), few, draws, seed) | {"seed": seed, "probe": probe}
    spec |= {
        "rates": list(rates),
        "severities": list(severities),
        "strength": STRENGTH,
        "space": "aligned, fused",
    }
    spec |= {"records": records, "train": len(learn), "test": len(seen)}
    return Result("missing_modality_robustness", spec, rows)


@dataclass
class Study:
    learn: FieldVectors
    seen: FieldVectors
    judge: Judge
    rates: tuple[float, ...]
    seed: int

    def __post_init__(self):
        self.base = self.learn.fused(self.learn.there)
        self.mean = self.base.mean(0)
        self.chances = self.learn.uniform(self.seed), self.seen.uniform(self.seed + 1)
        self.left = {
            rate: self.seen.there & (self.chances[1] >= rate) for rate in (0.0, *self.rates)
        }
        self.tests = {
            ("random", hidden(rate)): self.fused(left) for rate, left in self.left.items()
        }

    def fused(self, left_NS: Tensor) -> Tensor:
        return or_mean(self.seen.fused(left_NS), self.mean)

    def natural(self, severities: tuple[float, ...]) -> list[dict]:
        """All that is asked of the one probe that learnt from the records as they are."""
        names, tests = self.seen.names, dict(self.tests)
        subsets = (
            powerset(names)
            if len(names) <= MOST_FIELDS
            else [frozenset(names) - {s} for s in names]
        )
        for subset in subsets:
            tests["subset", subset] = self.fused(
                self.seen.there & torch.tensor([s in subset for s in names])
            )
        tests |= dict(_corrupt.damaged(self.seen, severities))
        self.found = self.judge(self.base, tests)
        if not self.found:
            raise NotApplicable("fewer than two training or test records have the label")
        rows = []
        for subset in subsets if len(names) <= MOST_FIELDS else []:
            of = "+".join(s for s in names if s in subset) or "none"
            rows += [
                {"part": "subset", "source": of, **row} for row in self.found["subset", subset]
            ]
        if len(names) <= MOST_FIELDS:
            rows += _worth({s: self.found["subset", s][0] for s in subsets}, names)
        full = self.found["random", hidden(0.0)]
        for (kind, *what), found in self.found.items():
            if kind in _corrupt.KINDS:
                field, severity = what
                without = self.found["subset", frozenset(names) - {field}]
                for row, f, w in zip(found, full, without):
                    row = row | {
                        "full": f["value"],
                        "lost": f["value"] - row["value"],
                        "without": w["value"],
                    }
                    target = f"{kind} {severity:g}"
                    rows.append(
                        {
                            "part": kind,
                            "source": field,
                            "target": target,
                            "severity": severity,
                            **row,
                        }
                    )
        return rows

    def random(self) -> list[dict]:
        rows, empty = (
            [],
            {hidden(r): float((~left.any(1)).float().mean()) for r, left in self.left.items()},
        )
        for rate in (0.0, *self.rates):
            left = self.learn.there & (self.chances[0] >= rate)
            found = self.found if not rate else self.judge(self.learn.fused(left), self.tests)
            source = f"trained with {hidden(rate)}"
            for _, target in self.tests:
                for row in found.get(("random", target), []):
                    rows.append(
                        {
                            "part": "random",
                            "source": source,
                            "target": target,
                            **row,
                            "empty": empty[target],
                        }
                    )
        return rows

    def ways(self) -> list[dict]:
        best, scores = _impute.chosen(
            self.learn, self.chances[0], self.rates, self.judge, self.seed + 2
        )
        rows = []
        for way in _impute.WAYS:
            if way == "drop":  # which is what the probe on the records as they are does
                found = {target: self.found["random", target] for _, target in self.tests}
            else:
                base = _impute.vectors(way, self.learn, self.learn, self.learn.there)
                left = {
                    r: _impute.vectors(way, self.learn, self.seen, k) for r, k in self.left.items()
                }
                found = self.judge(
                    base, {hidden(r): or_mean(x, base.mean(0)) for r, x in left.items()}
                )
            more = {
                "chosen": way == best,
                "valid": float(np.mean(scores[way])) if scores[way] else None,
            }
            for target, many in found.items():
                rows += [
                    {"part": "ways", "source": way, "target": target, **row, **more} for row in many
                ]
        return rows

    def by_label(self) -> list[dict]:
        groups = halves(self.judge.y_train, self.judge.y_test)
        trained = self.learn.there & ~depending(self.chances[0], groups[0])
        even = self.learn.there & (self.chances[0] >= 0.5)
        tested = {
            "as in training": self.seen.there & ~depending(self.chances[1], groups[1]),
            "at random": self.seen.there & (self.chances[1] >= 0.5),
            "turned round": self.seen.there & ~depending(self.chances[1], groups[1], turned=True),
        }
        own = {target: self.fused(left) for target, left in tested.items()}
        ends = {target: side_by_side(self.seen.x, left) for target, left in tested.items()}
        bits = {target: left.float() for target, left in tested.items()}
        arms = {
            "fused": (self.learn.fused(trained), own),
            "fused, trained at random": (self.learn.fused(even), own),
            "side by side": (side_by_side(self.learn.x, trained), ends),
            "presence": (trained.float(), bits),
        }
        rows, fall = [], {}
        for source, (base, tests) in arms.items():
            for target, found in self.judge(base, tests).items():
                rows += [
                    {"part": "label", "source": source, "target": target, **row} for row in found
                ]
        for row in rows:
            value = row["value"] * {"as in training": 1, "turned round": -1}.get(row["target"], 0)
            fall[row["source"], row["metric"]] = (
                fall.get((row["source"], row["metric"]), 0.0) + value
            )
        for row in rows:
            fair = fall.get(("fused, trained at random", row["metric"]), 0.0)
            if row["target"] == "turned round" and row["source"] in ("fused", "side by side"):
                row["leaked"] = fall[row["source"], row["metric"]] - fair
        if not self.learn.there.all() or not self.seen.there.all():
            found = self.judge(self.learn.there.float(), {"as it is": self.seen.there.float()})
            rows += [
                {"part": "leak", "source": "presence", "target": "as it is", **r}
                for r in found.get("as it is", [])
            ]
        return rows


def hidden(rate: float) -> str:
    return f"{100 * rate:g}% hidden"


def _worth(rows: dict[frozenset[str], dict], names: Sequence[str]) -> list[dict]:
    score = {subset: row["value"] for subset, row in rows.items()}
    everything, first = frozenset(names), next(iter(rows.values()))
    return [
        {
            "part": "worth",
            "source": s,
            "metric": "worth",
            "of_metric": first["metric"],
            "value": value,
            "chance": 0.0,
        }
        | {"n": first["n"], "alone": score[frozenset({s})] - score[frozenset()]}
        | {"last": score[everything] - score[everything - {s}]}
        for s, value in shapley(score, names).items()
    ]


class MissingModalityRobustness(Protocol):
    """Missing fields in training and at test, and damaged values."""

    name, needs = "missing_modality_robustness", (LABEL, TWO_FIELDS, CHANGED_RECORDS)
    default = False
    measure = staticmethod(missing_modality_robustness)

    def shortened(self, rows: Sequence[dict]) -> list[dict]:
        """What the probe that learnt from the records as they are bears, and the substitute that
        was chosen."""
        short, worst = [], max(row.get("severity", 0) for row in rows)
        for row in rows:
            part, plain = row["part"], row["source"] == "trained with 0% hidden"
            if part == "random" and plain:
                short.append(row | {"source": "all fields"})
            elif part == "ways" and row["chosen"] and row["source"] != "drop":
                short.append(row | {"source": f"all fields, absent ones by {row['source']}"})
            elif part == "label" and row["source"] == "fused":
                short.append(
                    row | {"source": "all fields", "target": f"hidden by label, {row['target']}"}
                )
            elif part == "leak" or part == "worth":
                short.append(row | ({"source": "presence alone"} if part == "leak" else {}))
            elif row.get("severity", 0) == worst > 0:
                short.append(row | {"source": f"all fields, {row['source']} damaged"})
        return short

    def draw(self, result: Result, path: Path) -> Path:
        from amodal.evaluate.robustness_picture import missing_modality_robustness as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = MissingModalityRobustness()

"""How robust a representation is to missing and corrupted fields.

Fields are hidden at random or depending on the label, in training, at test or both. Measured are
the importance of each field, imputations of absent fields, and the cost of corruption.

Vectors are computed once, so this works for every encoder and label; only corruption embeds values
anew. `missing_modality` is the quick protocol (every subset of fields, on the records that have it)
and is run by default; this is the long one, run on request. Probes read the fused vectors in both.
`part` of a row says what it measures:

random  Hidden at random: `source` says how much in training, `target` how much at test. All rates
        are measured on the same records: one without a visible field counts as the average training
        record.
label   Hidden depending on the label (MultiModN, Swamy et al., NeurIPS 2023, arXiv:2309.14118): in
        training half of the classes mostly lose the fields 0, 2, … and the other half the fields 1,
        3, …. At test fields are hidden as in training, at random, or the other way round. A probe
        that reads which fields are present is right as in training, and wrong the other way round.
        `source` is the input of the probe: fused; fused, trained at random; side by side (zeros for
        absent fields); presence (only which fields are present). `leaked`: how far a probe falls
        from "as in training" to "turned round", less the fall of the probe trained at random, as
        the fields that are left to a class differ and may say more or less.
leak    Presence alone, in the data as it is. Above chance, presence says something about the label.
ways    Imputations of absent fields (`imputation`), and which of them a part of the training
        records chose.
subset  The fields of `source` alone, for all records.
worth   Shapley value of a field, beside its score alone and its gain when added last.
exchange, drop, noise  One field corrupted, see `corruption`. `full`: not corrupted; `lost`: the
        difference; `without`: the field hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.evaluate import imputation
from amodal.evaluate.corruption import corrupted
from amodal.evaluate.labels import NotApplicable, label_spec
from amodal.evaluate.missing_modalities import (
    STRENGTH,
    FieldVectors,
    ProbeEvaluator,
    concatenate_fields,
    fill_nan,
    label_dependent_mask,
    label_groups,
)
from amodal.evaluate.needs import CHANGED_RECORDS, LABEL, TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.missing_modality import PROBES
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.stats.shapley import powerset, shapley

MAX_FIELDS = 6
"""Above which there are too many subsets for exact Shapley values."""

Subset = frozenset[str]
Corruption = tuple[str, str, float]
"""(kind, field, severity)."""


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
    """Measure robustness to missing and corrupted fields.

    Args:
        train: Training records.
        test: Test records.
        label: What the probe predicts.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`; it also decides what is hidden.
        probe: "linear" or "knn".
        rates: Shares of the values that are hidden.
        severities: Of the corruption of one field, see `corruption`. Empty for none, which saves
            embedding the records anew.
        records: Training and test records at most, chosen by a hash of their keys.

    Raises:
        NotApplicable: If there are fewer than two fields or labelled records.
        AmodalError: For an unknown probe and for shares outside (0, 1].
    """
    require_two_fields(test)
    if probe not in PROBES:
        raise unknown("probe", probe, PROBES)
    for name, shares in (("rates", rates), ("severities", severities)):
        if not all(0 < share <= 1 for share in shares):
            raise AmodalError(f"{name} = {tuple(shares)}: shares above 0 and at most 1 are needed")
    training, tested = FieldVectors.of(train, records, seed), FieldVectors.of(test, records, seed)
    evaluator = ProbeEvaluator(
        PROBES[probe], training.label(label), tested.label(label), few, draws, seed
    )
    study = Study(training, tested, evaluator, tuple(rates), tuple(severities), seed)
    rows = [
        *study.subset_rows(),
        *study.corruption_rows(),
        *study.random_rows(),
        *study.imputation_rows(),
        *study.label_dependent_rows(),
    ]
    spec = label_spec(label, training.label(label), few, draws, seed) | {
        "seed": seed,
        "probe": probe,
        "rates": list(rates),
        "severities": list(severities),
        "strength": STRENGTH,
        "space": "aligned, fused",
        "records": records,
        "train": len(training),
        "test": len(tested),
    }
    return Result("missing_modality_robustness", spec, rows)


class Study:
    """The measurements on one pair of training and test records.

    Args:
        train: Training records.
        test: Test records.
        evaluator: Fits and tests the probes.
        rates: Shares of the values that are hidden.
        severities: Of corruption.
        seed: Of what is hidden.
    """

    def __init__(
        self,
        train: FieldVectors,
        test: FieldVectors,
        evaluator: ProbeEvaluator,
        rates: tuple[float, ...],
        severities: tuple[float, ...],
        seed: int,
    ):
        self.train, self.test, self.evaluator = train, test, evaluator
        self.rates, self.severities, self.seed = rates, severities, seed
        self.base = train.fused(train.present)
        self.mean = self.base.mean(0)
        # one draw for all rates: what a rate hides the higher ones hide too
        self.uniform = train.uniform(seed), test.uniform(seed + 1)
        self.visible = {rate: test.present & (self.uniform[1] >= rate) for rate in (0.0, *rates)}
        self.random_tests = {hidden(rate): self.fused(mask) for rate, mask in self.visible.items()}

    @property
    def exact(self) -> bool:
        """Whether there are few enough fields for all subsets."""
        return len(self.test.names) <= MAX_FIELDS

    def fused(self, visible_NS: Tensor) -> Tensor:
        """(N, D) test vectors of the visible fields."""
        return fill_nan(self.test.fused(visible_NS), self.mean)

    @cached_property
    def plain_probe(self) -> dict[str | Subset | Corruption, list[Row]]:
        """What the probe that was fitted to the training records as they are scores on all tests.

        Tests are `hidden(rate)`, subsets of fields, and corruptions.
        """
        names = self.test.names
        tests: dict[str | Subset | Corruption, Tensor] = {}
        tests.update(self.random_tests)
        subsets = powerset(names) if self.exact else [frozenset(names) - {s} for s in names]
        for subset in subsets:
            members = torch.tensor([s in subset for s in names])
            tests[subset] = self.fused(self.test.present & members)
        tests.update(corrupted(self.test, self.severities))
        scores = self.evaluator(self.base, tests)
        if not scores:
            raise NotApplicable("fewer than two training or test records have the label")
        return scores

    def subset_rows(self) -> list[Row]:
        """The parts `subset` and `worth`."""
        scores, names = self.plain_probe, self.test.names
        if not self.exact:
            return []
        rows = []
        for subset in powerset(names):
            source = "+".join(s for s in names if s in subset) or "none"
            rows += [{"part": "subset", "source": source, **row} for row in scores[subset]]
        return rows + _shapley_rows({s: scores[s][0] for s in powerset(names)}, names)

    def corruption_rows(self) -> list[Row]:
        """The parts `exchange`, `drop` and `noise`."""
        scores, names, rows = self.plain_probe, self.test.names, []
        for test, found in scores.items():
            if not isinstance(test, tuple):
                continue
            kind, field, severity = test
            full, without = scores[hidden(0.0)], scores[frozenset(names) - {field}]
            for row, f, w in zip(found, full, without):
                rows.append(
                    {
                        "part": kind,
                        "source": field,
                        "target": f"{kind} {severity:g}",
                        "severity": severity,
                        **row,
                        "full": f["value"],
                        "lost": f["value"] - row["value"],
                        "without": w["value"],
                    }
                )
        return rows

    def random_rows(self) -> list[Row]:
        """The part `random`."""
        rows = []
        empty = {
            hidden(rate): float((~mask.any(1)).float().mean())
            for rate, mask in self.visible.items()
        }
        for rate in (0.0, *self.rates):
            if rate:
                mask = self.train.present & (self.uniform[0] >= rate)
                scores = self.evaluator(self.train.fused(mask), self.random_tests)
            else:
                scores = self._plain_random()
            for target in self.random_tests:
                for row in scores.get(target, []):
                    rows.append(
                        {
                            "part": "random",
                            "source": f"trained with {hidden(rate)}",
                            "target": target,
                            **row,
                            "empty": empty[target],
                        }
                    )
        return rows

    def _plain_random(self) -> dict[str, list[Row]]:
        scores = self.plain_probe
        return {target: scores[target] for target in self.random_tests if target in scores}

    def imputation_rows(self) -> list[Row]:
        """The part `ways`."""
        best, scores = imputation.choose_strategy(
            self.train, self.uniform[0], self.rates, self.evaluator, self.seed + 2
        )
        rows = []
        for strategy in imputation.STRATEGIES:
            more = {
                "chosen": strategy == best,
                "valid": float(np.mean(scores[strategy])) if scores[strategy] else None,
            }
            for target, found in self._imputed(strategy).items():
                shared = {"part": "ways", "source": strategy, "target": target}
                rows += [{**shared, **row, **more} for row in found]
        return rows

    def _imputed(self, strategy: str) -> dict[str, list[Row]]:
        if strategy == "drop":  # the probe on the records as they are
            return self._plain_random()
        base = imputation.vectors(strategy, self.train, self.train, self.train.present)
        tests = {
            hidden(rate): fill_nan(
                imputation.vectors(strategy, self.train, self.test, mask), base.mean(0)
            )
            for rate, mask in self.visible.items()
        }
        return self.evaluator(base, tests)

    def label_dependent_rows(self) -> list[Row]:
        """The parts `label` and `leak`."""
        rows = []
        for source, (base, tests) in self._arms().items():
            for target, found in self.evaluator(base, tests).items():
                shared = {"part": "label", "source": source, "target": target}
                rows += [{**shared, **row} for row in found]
        _add_leaked(rows)
        train, test = self.train.present, self.test.present
        if not train.all() or not test.all():
            found = self.evaluator(train.float(), {"as it is": test.float()}).get("as it is", [])
            shared = {"part": "leak", "source": "presence", "target": "as it is"}
            rows += [{**shared, **row} for row in found]
        return rows

    def _arms(self) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Input of the probe -> its training vectors and its tests."""
        train, test = self.train, self.test
        train_group, test_group = label_groups(self.evaluator.y_train, self.evaluator.y_test)
        by_label = train.present & ~label_dependent_mask(self.uniform[0], train_group)
        at_random = train.present & (self.uniform[0] >= 0.5)
        masks = {
            "as in training": ~label_dependent_mask(self.uniform[1], test_group),
            "at random": self.uniform[1] >= 0.5,
            "turned round": ~label_dependent_mask(self.uniform[1], test_group, reverse=True),
        }
        visible = {target: test.present & mask for target, mask in masks.items()}
        fused = {target: self.fused(mask) for target, mask in visible.items()}
        ends = {target: concatenate_fields(test.x, mask) for target, mask in visible.items()}
        presence = {target: mask.float() for target, mask in visible.items()}
        return {
            "fused": (train.fused(by_label), fused),
            "fused, trained at random": (train.fused(at_random), fused),
            "side by side": (concatenate_fields(train.x, by_label), ends),
            "presence": (by_label.float(), presence),
        }


def _add_leaked(rows: list[Row]) -> None:
    fall: dict[tuple[str, str], float] = {}
    for row in rows:
        sign = {"as in training": 1, "turned round": -1}.get(row["target"], 0)
        key = row["source"], row["metric"]
        fall[key] = fall.get(key, 0.0) + row["value"] * sign
    for row in rows:
        fair = fall.get(("fused, trained at random", row["metric"]), 0.0)
        if row["target"] == "turned round" and row["source"] in ("fused", "side by side"):
            row["leaked"] = fall[row["source"], row["metric"]] - fair


def hidden(rate: float) -> str:
    """The name of a test or training with this share hidden."""
    return f"{100 * rate:g}% hidden"


def _shapley_rows(rows: Mapping[Subset, Row], names: Sequence[str]) -> list[Row]:
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
            "n": first["n"],
            "alone": score[frozenset({s})] - score[frozenset()],
            "last": score[everything] - score[everything - {s}],
        }
        for s, value in shapley(score, names).items()
    ]


class MissingModalityRobustness(Protocol):
    """Missing fields in training and at test, and corrupted values."""

    name, needs = "missing_modality_robustness", (LABEL, TWO_FIELDS, CHANGED_RECORDS)
    default = False
    measure = staticmethod(missing_modality_robustness)

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of the probe that learnt from the records as they are, and the chosen imputation."""
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
        """See `Protocol.draw`."""
        from amodal.evaluate.robustness_picture import missing_modality_robustness as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = MissingModalityRobustness()

"""Fields in training against fields at test: a probe for every set of fields, tested with every
set.

The matrix of McKinzie et al., ICML 2023, arXiv:2304.04385. `source` of a row is the set that was
learnt from, `target` the set at test. `case` is how they differ: "same", "missing" (fewer at test),
"added" (more at test), "transfer" (nothing in common), or "other". `own` is the score of the probe
that learnt from the target itself; `robustness` = value / own. Rows with `source` ALL have the mean
and the worst of each case and of the whole matrix.

All probes are tested on the same records, those that have every field. Each learns from the
training records that have any of its fields. Vectors are computed once, so this measures what the
encoder makes of other fields. Heads that methods train are measured by their own tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from amodal.core import AmodalError, unknown
from amodal.evaluate.labels import NotApplicable, label_spec
from amodal.evaluate.missing_modalities import FieldVectors, ProbeEvaluator
from amodal.evaluate.needs import LABEL, TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.missing_modality import PROBES, Subset, subsets
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded

ALL = "all sets"


def modality_subsets(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    probe: str = "linear",
    sets: int = 15,
    records: int = 4000,
) -> Result:
    """Measure the matrix.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        probe: "linear" or "knn".
        sets: Sets of fields to try. If there are more: all single fields, all but one, and all
            fields.
        records: Training and test records at most, chosen by a hash of their keys.

    Raises:
        NotApplicable: If there are too few fields or records.
        AmodalError: For an unknown probe, and if `sets` is below 1.
    """
    require_two_fields(test)
    if probe not in PROBES:
        raise unknown("probe", probe, PROBES)
    if sets < 1:
        raise AmodalError(f"sets = {sets}: at least one is needed")
    learn, seen = (FieldVectors.of(part, records, seed) for part in (train, test))
    seen = seen.select(seen.present.all(1))
    if len(seen) < 2:
        raise NotApplicable(f"fewer than two test records have all of {', '.join(test.sources)}")
    evaluator = ProbeEvaluator(
        PROBES[probe], learn.label(label), seen.label(label), few, draws, seed
    )
    chosen = subsets(seen.names, sets)
    mask = {s: torch.tensor([name in s for name in seen.names]) for s in chosen}
    tests = {s: seen.fused(seen.present & mask[s]) for s in chosen}
    rows = matrix({s: evaluator(learn.fused(learn.present & mask[s]), tests) for s in chosen})
    if not rows:
        raise NotApplicable("fewer than two training or test records have the label")
    spec = label_spec(label, learn.label(label), few, draws, seed) | {
        "seed": seed,
        "probe": probe,
        "sets": len(chosen),
    }
    return Result(
        "modality_subsets",
        spec | {"records": records, "train": len(learn), "test": len(seen)},
        rows,
    )


def matrix(results: dict[Subset, dict[Subset, list[Row]]]) -> list[Row]:
    """The rows of the protocol.

    Args:
        results: Set in training -> set at test -> a row for each metric.
    """
    rows = []
    for source, tested in results.items():
        for target, metrics in tested.items():
            for row, own in zip(metrics, results[target].get(target, [])):
                compared = {
                    "own": own["value"],
                    "robustness": row["value"] / own["value"] if own["value"] else np.nan,
                }
                rows.append(
                    {
                        "source": "+".join(source),
                        "target": "+".join(target),
                        "case": case(source, target),
                        **row,
                        **compared,
                    }
                )
    return rows + summaries(rows)


def case(source: Sequence[str], target: Sequence[str]) -> str:
    """How a set at test differs from the one in training."""
    a, b = set(source), set(target)
    if a == b:
        return "same"
    if not a & b:
        return "transfer"
    return "missing" if b < a else "added" if a < b else "other"


def summaries(rows: Sequence[Row]) -> list[Row]:
    """The mean and the worst of each case and of all, for each metric."""
    summary = []
    for metric in dict.fromkeys(r["metric"] for r in rows):
        cells = [r for r in rows if r["metric"] == metric]
        for kind in (*dict.fromkeys(r["case"] for r in cells), "every case"):
            of_case = [r for r in cells if kind in (r["case"], "every case")]
            for name, reduce in (("mean", np.mean), ("worst", np.min)):
                summary.append(
                    {
                        "source": ALL,
                        "target": f"{name}, {kind}",
                        "metric": metric,
                        "chance": cells[0]["chance"],
                        "n": cells[0]["n"],
                        "case": kind,
                        "value": float(reduce([r["value"] for r in of_case])),
                        "robustness": float(reduce([r["robustness"] for r in of_case])),
                    }
                )
    return summary


class ModalitySubsets(Protocol):
    """A probe for every set of fields, tested with every set."""

    name, needs = "modality_subsets", (LABEL, TWO_FIELDS)
    default = False
    measure = staticmethod(modality_subsets)

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """Means and worst cases."""
        return [row for row in rows if "own" not in row]

    def draw(self, result: Result, path: Path) -> Path:
        """See `Protocol.draw`."""
        from amodal.evaluate.modality_subsets_picture import modality_subsets as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = ModalitySubsets()

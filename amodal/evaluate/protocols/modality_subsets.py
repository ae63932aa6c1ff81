"""Fields in training against fields at test: a probe for every set of fields to learn from, tested
with every set to predict from.

The matrix of McKinzie et al., ICML 2023, arXiv:2304.04385. `source` of a row is what was learnt
from, `target` what is predicted from; `case` how they differ: "same", "missing" (less at test),
"added" (more at test), "transfer" (nothing in common), or "other". `own`: the probe that learnt
from the target itself, tested alike; `robustness`: value / own. Then, with `source` ALL, the mean
and the worst of each case and of the whole matrix, for `target`. All probes are tested on the same
records, those that have every field; each learns from the training records that have any of its
fields. Vectors are made once, so this asks what the encoder makes of other fields, while the heads
that methods train are asked by their own tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from amodal.core import AmodalError, unknown
from amodal.evaluate.labels import NotApplicable, label_spec
from amodal.evaluate.missing_modalities import FieldVectors, Judge
from amodal.evaluate.needs import LABEL, TWO_FIELDS, two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.missing_modality import PROBES, subsets
from amodal.evaluate.result import Result
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
    """few, draws, seed: see `measure`. probe: "linear" or "knn". sets: of fields to try; if there
    are more, all single fields, all but one, and all of them. records: of training and of test at
    most, chosen by a hash of their keys."""
    two_fields(test)
    if probe not in PROBES:
        raise unknown("probe", probe, PROBES)
    if sets < 1:
        raise AmodalError(f"sets = {sets}: at least one is needed")
    learn, seen = (FieldVectors.of(part, records, seed) for part in (train, test))
    seen = seen.at(seen.there.all(1))
    if len(seen) < 2:
        raise NotApplicable(f"fewer than two test records have all of {', '.join(test.sources)}")
    judge = Judge(PROBES[probe], learn.label(label), seen.label(label), few, draws, seed)
    chosen = subsets(seen.names, sets)
    mask = {s: torch.tensor([name in s for name in seen.names]) for s in chosen}
    tests = {s: seen.fused(seen.there & mask[s]) for s in chosen}
    rows = matrix({s: judge(learn.fused(learn.there & mask[s]), tests) for s in chosen})
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


Names = tuple[str, ...]


def matrix(results: dict[Names, dict[Names, list[dict]]]) -> list[dict]:
    """results: learnt from -> predicted from -> a row for each metric. The rows of the protocol."""
    rows = []
    for source, tested in results.items():
        for target, many in tested.items():
            for row, own in zip(many, results[target].get(target, [])):
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
    a, b = set(source), set(target)
    if a == b:
        return "same"
    if not a & b:
        return "transfer"
    return "missing" if b < a else "added" if a < b else "other"


def summaries(rows: list[dict]) -> list[dict]:
    found = []
    for metric in dict.fromkeys(r["metric"] for r in rows):
        mine = [r for r in rows if r["metric"] == metric]
        for kind in (*dict.fromkeys(r["case"] for r in mine), "every case"):
            some = [r for r in mine if kind in (r["case"], "every case")]
            shared = {
                "metric": metric,
                "chance": mine[0]["chance"],
                "n": mine[0]["n"],
                "case": kind,
            }
            for what, of in (("mean", np.mean), ("worst", np.min)):
                value, robust = (float(of([r[k] for r in some])) for k in ("value", "robustness"))
                found.append(
                    {
                        "source": ALL,
                        "target": f"{what}, {kind}",
                        **shared,
                        "value": value,
                        "robustness": robust,
                    }
                )
    return found


class ModalitySubsets(Protocol):
    """A probe for every set of fields, tested with every set."""

    name, needs = "modality_subsets", (LABEL, TWO_FIELDS)
    default = False
    measure = staticmethod(modality_subsets)

    def shortened(self, rows: Sequence[dict]) -> list[dict]:
        """Means and worst cases."""
        return [row for row in rows if "own" not in row]

    def draw(self, result: Result, path: Path) -> Path:
        from amodal.evaluate.modality_subsets_picture import modality_subsets as picture

        return picture(result.rows, path, label=result.spec.get("label"))


PROTOCOL = ModalitySubsets()

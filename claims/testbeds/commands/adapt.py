"""`python -m testbeds adapt`: a run that `amodal adapt` makes, beside the yardsticks of a testbed.

For each testbed whose primary task predicts a label: a run of `simclr` as users get it, at a quarter of
the testbed's steps, then `adapt` as users get it. What it chose by the validation part is measured
once on the test part, beside simple features and the best peer there (`python -m testbeds yardsticks
--test` measures these). Stored as results/adapt/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import amodal
import testbeds
from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.inference.heads import head_outputs
from amodal.studies.choose_head import Choice, score_of
from amodal.studies.frozen_heads import Records
from testbeds import studies
from testbeds.studies import Yardsticks
from testbeds.testbed import Testbed

METHOD, SEED = "simclr", 0
SHARE = 4
"""Of a testbed's steps, the part that the run takes."""
ADAPTING = 100
"""Steps of fine-tuning, which 30 epochs of the larger sets exceed."""
LEVEL = 1.96


def main(arguments: Sequence[str]) -> int:
    """Measure what is not stored, and print the table."""
    parser = argparse.ArgumentParser("python -m testbeds adapt", description=__doc__)
    parser.add_argument("names", nargs="*", help="testbeds; by default all that predict a label")
    parser.add_argument("--out", type=Path, default=studies.RESULTS / "adapt")
    parser.add_argument("--show", action="store_true", help="print the table, train nothing")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = asked.names or [n for n in testbeds.names() if testbeds.testbed(n).primary.label]
    for name in names:
        bed, file = testbeds.testbed(name), asked.out / f"{name}.json"
        if bed.primary.label is None:
            raise AmodalError(f"{name} predicts no label: its first task is {bed.primary.name!r}")
        if not file.exists() and not asked.show:
            result = measured(bed)
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as draft:
                draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table({n: asked.out / f"{n}.json" for n in names}))
    return 0


def measured(bed: Testbed) -> dict[str, Any]:
    """Train, adapt, and measure once on the test part."""
    dataset, task = bed.open(), bed.primary
    survival = task.protocol == "survival"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run, out = Path(folder) / "run", Path(folder) / "out"
        options = {"backbones": dict(bed.backbones)} if bed.backbones else {}
        amodal.pretrain(
            METHOD,
            dataset,
            run,
            size=bed.size,
            steps=max(1, bed.steps // SHARE),
            seed=SEED,
            **options,
        )
        model = amodal.load(run).adapt(
            dataset,
            out,
            label=task.label or "",
            task="survival" if survival else "",
            steps=ADAPTING,
            seed=SEED,
        )
        choice = Choice.load(out)
        assert choice is not None, "adapt has just written it"
        data = dataset.with_fields(model.fields)
        test = Records(data, data.split("test"))
        head = model.head
        assert head is not None, "adapt has just made it"
        score = score_of(head, head_outputs(head, model.encoder, data, test.rows), test)
    return {
        "testbed": bed.name,
        "task": task.name,
        "metric": choice.metric,
        "chosen": choice.chosen,
        "validation": {name: one.value for name, one in choice.scores.items()},
        "test": score.value,
        "half": LEVEL * score.error,
        "records": len(test.rows),
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {"amodal": amodal.__version__, "torch": torch.__version__},
    }


def table(files: Mapping[str, Path]) -> str:
    """What was measured, in Markdown."""
    lines = [
        "| testbed | chosen on the validation part | on the test part | simple features | best peer |",
        "|---|---|---|---|---|",
    ]
    for name, file in files.items():
        if not file.exists():
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        yardsticks = Yardsticks(name, "test")
        try:
            simple = yardsticks.of(result["task"], "simple features")
            peer = yardsticks.best_peer(result["task"])
        except AmodalError:  # not measured on the test part
            simple = peer = None
        cells = [
            f"{name} ({result['metric']})",
            result["chosen"],
            f"{result['test']:.3f} ±{result['half']:.3f}",
            "" if simple is None else f"{simple:.3f}",
            "" if peer is None else f"{peer[1]:.3f} ({peer[0].strip()})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""The command line, see the package."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import amodal
from amodal.data import Dataset
from amodal.train.run_dir import mark_chosen
from scripts.checkpoints import card
from scripts.checkpoints.measuring import (
    SAME_PAIRS,
    Others,
    by_run,
    by_statistics,
    mean_score,
    measured,
)
from scripts.checkpoints.recipes import PILOT_SEED, RECIPES, SEED, Recipe

MEASURED = "measured.json"
"""In the folder of a checkpoint, beside what `save_pretrained` writes."""


def make(recipe: Recipe, out: Path, steps: int | None = None) -> dict[str, Any]:
    """Train, measure and describe a checkpoint.

    Args:
        recipe: What and how.
        out: The folder to publish.
        steps: In place of the recipe's, to try the path out.

    Returns:
        What measured.json says.
    """
    with tempfile.TemporaryDirectory(prefix="amodal-checkpoint-") as scratch:
        data = training_data(recipe, Path(scratch))
        began = time.process_time()
        model, others = trained(recipe, data, Path(scratch), steps)
        seconds = time.process_time() - began
        results = []
        for task in recipe.tasks:
            results.append(measured(model, task, others))
            print(json.dumps(results[-1].as_dict()), flush=True)
        # the folder of this machine is of no use to others
        model.config["data"] |= {"path": "", "name": recipe.name}
        model.save_pretrained(out, packaged=not recipe.heads)
    files = [f for f in out.iterdir() if f.suffix in (".safetensors", ".json")]
    content = {
        "checkpoint": recipe.name,
        "method": model.config["method"],
        "steps": model.config["schedule"]["steps"],
        "batch": model.config["batch"],
        "cpu_seconds": round(seconds),
        "megabytes": round(sum(f.stat().st_size for f in files) / 1e6, 1),
        "trained_on": int(len(data.split("train"))),
        "results": [one.as_dict() for one in results],
    }
    describe(recipe, content, out)
    return content


def remeasured(recipe: Recipe, out: Path, title: str) -> dict[str, Any]:
    """Ask a checkpoint some of its tasks anew; what other runs have there stays as it was.

    Args:
        recipe: How it was made.
        out: Its folder.
        title: Of the tasks, or a part of it.
    """
    content = json.loads((out / MEASURED).read_text(encoding="utf-8"))
    model = amodal.load(out)
    for task in recipe.tasks:
        if title in task.title:
            result = measured(model, task, by_statistics(model)).as_dict()
            before = next(r for r in content["results"] if r["task"] == task.title)
            for name in ("values", "intervals", "lead"):
                before[name] |= result[name]
    describe(recipe, content, out)
    return content


def describe(recipe: Recipe, content: dict[str, Any], out: Path) -> None:
    """Write the figures and the card into the folder of a checkpoint."""
    (out / MEASURED).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card.text(recipe, content, out), encoding="utf-8")


def training_data(recipe: Recipe, scratch: Path) -> Dataset:
    """What a checkpoint learns from, written into a folder."""
    (scratch / "data").mkdir()
    return amodal.open(str(recipe.data(scratch / "data")))


def trained(
    recipe: Recipe, data: Dataset, scratch: Path, steps: int | None
) -> tuple[amodal.Model, Others]:
    """The model, and what is measured beside it."""
    changed = {} if steps is None else {"steps": steps}
    settings = recipe.settings | changed | {"seed": SEED, "progress": False}
    run = scratch / "run"
    if recipe.heads:
        if steps is None:
            chosen = amodal.align(data, run, recipe.heads, **settings)
            print(chosen.summary, flush=True)
        else:
            amodal.align(data, run, recipe.heads, method="linear_heads", **settings)
        closed = amodal.align(data, scratch / "closed", recipe.heads, method="cca", progress=False)
        return amodal.load(run), recipe.others | {SAME_PAIRS: by_run(amodal.load(closed.run))}
    model = amodal.pretrain(recipe.method, data, run, logger=[], **settings)
    mark_chosen(run)  # settings were, so validation parts are not tested on
    return amodal.load(model.path), recipe.others | by_statistics(amodal.load(model.path))


def pilot(recipe: Recipe, only: str = "") -> None:
    """Train every candidate with another seed, and ask it on validation parts."""
    with tempfile.TemporaryDirectory(prefix="amodal-checkpoint-") as scratch:
        data = training_data(recipe, Path(scratch))
        for number, (name, (method, settings)) in enumerate(recipe.candidates.items()):
            if only not in name:
                continue
            began = time.process_time()
            run = Path(scratch) / f"candidate-{number}"
            options = {"seed": PILOT_SEED, "progress": False, "logger": []} | settings
            model = amodal.pretrain(method, data, run, **options)
            seconds = round(time.process_time() - began)
            mean, each = mean_score(model, recipe.chosen_by)
            shown = ", ".join(f"{t.title} {s:.3f}" for t, s in zip(recipe.chosen_by, each))
            print(f"{name}: {mean:.3f} ({shown}), {seconds} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.checkpoints", description=__doc__)
    parser.add_argument("name", nargs="?", choices=RECIPES)
    parser.add_argument("--out", type=Path, help="the folder to publish")
    parser.add_argument("--steps", type=int, help="in place of the recipe's, to try the path out")
    parser.add_argument("--pilot", action="store_true", help="compare settings instead")
    parser.add_argument(
        "--only", default="", help="candidates of the pilot that have it in their name"
    )
    parser.add_argument("--remeasure", help="measure the tasks with this in their title anew")
    parser.add_argument("--store", action="store_true", help="the figures are those of the page")
    parser.add_argument("--page", action="store_true", help="write the figures into the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.page:
        card.PAGE.write_text(card.written(card.PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if arguments.name is None or (arguments.out is None and not arguments.pilot):
        parser.error("give a checkpoint, and --out DIR or --pilot; or --page")
    if arguments.pilot:
        pilot(RECIPES[arguments.name], arguments.only)
        return 0
    if arguments.remeasure:
        content = remeasured(RECIPES[arguments.name], arguments.out, arguments.remeasure)
    else:
        content = make(RECIPES[arguments.name], arguments.out, arguments.steps)
    if arguments.store:
        card.RESULTS.mkdir(exist_ok=True)
        (card.RESULTS / f"{arguments.name}.json").write_text(
            json.dumps(content, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

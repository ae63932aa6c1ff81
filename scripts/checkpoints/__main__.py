"""The command line, see the package."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import amodal
from amodal.train.run_dir import mark_chosen
from scripts.checkpoints import training_data
from scripts.checkpoints.measuring import mean_score
from scripts.checkpoints.recipes import PILOT_SEED, RECIPES, SEED, Recipe

RESULTS = Path(__file__).parent.parent.parent / "claims" / "testbeds" / "results" / "checkpoints"


def pilot(recipe: Recipe, only: str = "") -> dict[str, Any]:
    """Train every candidate and ask it on validation parts."""
    scores: dict[str, Any] = {}
    with training_data.scratch() as folder:
        (Path(folder) / "data").mkdir()
        data = amodal.open(str(recipe.data(Path(folder) / "data")))
        for name, (method, settings) in recipe.candidates.items():
            if only and only not in name:
                continue
            began = time.process_time()
            try:
                model = amodal.pretrain(
                    method,
                    data,
                    Path(folder) / name.replace(" ", "_"),
                    seed=PILOT_SEED,
                    progress=False,
                    logger=[],
                    **settings,
                )
                seconds = time.process_time() - began
                mean, each = mean_score(model, recipe.chosen_by)
                scores[name] = {
                    "score": round(mean, 4),
                    "each": [round(s, 4) for s in each],
                    "seconds": round(seconds),
                }
            except amodal.AmodalError as error:
                scores[name] = {"failed": str(error)}
            print(name, json.dumps(scores[name]), round(time.process_time() - began), flush=True)
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--pilot", action="store_true")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pilot(RECIPES[arguments.name], arguments.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())

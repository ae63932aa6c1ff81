"""Another length for a run that has begun: `--resume` with other steps.

A run whose learning rate is constant until its last part (schedules `wsd` and `constant`) is the
beginning of every longer one. It goes on from the checkpoint before the rate fell, and ends as a
run of the new length does that was trained in one go, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amodal.core import AmodalError
from amodal.core.recipe import Recipe
from amodal.nn.saved import read_json
from amodal.train import checkpoint, run_dir
from amodal.train.schedule import branch_of

LENGTH_READ = "length_read"
"""Entry of state.json: the method has read how long the run is."""


@dataclass(frozen=True)
class Extension:
    """A run that gets another length.

    Args:
        out: The run folder.
        before: Content of its config.json.
        recipe: With the new length, and the warm-up that the run began with.
        start: The step that it goes on from, 0 for the beginning.
    """

    out: Path
    before: Mapping[str, Any]
    recipe: Recipe
    start: int

    def compared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration with the old length, in which the two must agree otherwise."""
        recipe = dict(config["recipe"])
        for name in ("steps", "warmup", "warmup_steps"):
            recipe.pop(name, None)
            if name in self.before["recipe"]:
                recipe[name] = self.before["recipe"][name]
        steps = {"steps": self.before["schedule"]["steps"]}
        return {**config, "recipe": recipe, "schedule": config["schedule"] | steps}

    def apply(self, config: Mapping[str, Any]) -> None:
        """Make the folder that of an unfinished run of the new length.

        Checkpoints after `start` go first, the newest first: a kill in between leaves the run
        of the old length, which can be extended as before.
        """
        for folder in reversed(checkpoint.all_checkpoints(self.out / "checkpoints")):
            if checkpoint.step_of(folder) > self.start:
                shutil.rmtree(folder)
        changed = {name: config[name] for name in ("recipe", "schedule")}
        before = {n: v for n, v in self.before.items() if n not in ("weights_sha256", "seconds")}
        run_dir.write_json(self.out / "config.json", before | changed | {"status": "running"})


def extension(out: Path, recipe: Recipe, resume: bool, staged: bool) -> Extension | None:
    """How the run in a folder gets the length of a recipe; None where it has that length already.

    Args:
        out: The run folder.
        recipe: With its steps resolved.
        resume: Whether the run in it is continued.
        staged: Whether its method learns in more than one stage.

    Raises:
        AmodalError: If a run of the new length would have begun differently, or the checkpoint
            before the rate fell is gone.
    """
    file = out / "config.json"
    if not resume or not file.exists():
        return None
    before = run_dir.read_config(file)
    steps, wanted = before.get("schedule", {}).get("steps"), recipe.steps
    if not isinstance(steps, int) or wanted is None or steps == wanted:
        return None
    old = Recipe.of(before["recipe"])
    refusal = (
        f"the run in {out} was started for {steps} steps and cannot get {wanted}: {{reason}}. "
        f"Train on from its weights in a new folder: --init-from {out}"
    )
    if reason := _fixed(old, staged):
        raise AmodalError(refusal.format(reason=reason))
    branch = min(branch_of(old, steps), branch_of(recipe, wanted))
    found = checkpoint.all_checkpoints(out / "checkpoints")
    usable = [folder for folder in found if checkpoint.step_of(folder) <= branch]
    if found and not usable:
        first = checkpoint.step_of(found[0])
        reason = f"its first checkpoint is of step {first}, and the new rate falls from {branch} on"
        raise AmodalError(refusal.format(reason=reason))
    if usable and read_json(usable[-1] / "state.json", "").get(LENGTH_READ):
        reason = (
            f"{before.get('method')} has a schedule of its own over the whole length, such as a "
            "teacher's momentum"
        )
        raise AmodalError(refusal.format(reason=reason))
    warmup = replace(recipe, warmup_steps=old.warmup_of(steps))
    return Extension(out, before, warmup, checkpoint.step_of(usable[-1]) if usable else 0)


def _fixed(recipe: Recipe, staged: bool) -> str:
    """Why the length of a run is fixed, "" where it is not."""
    if recipe.schedule not in ("wsd", "constant"):
        return (
            f"its learning rate follows the whole length (schedule {recipe.schedule}); runs of "
            "--schedule wsd or constant can be extended"
        )
    if recipe.weight_decay_end is not None:
        return "its weight decay follows the whole length (weight_decay_end)"
    return "its method learns in stages, which are shares of the length" if staged else ""

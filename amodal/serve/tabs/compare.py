"""Compare: methods beside yardsticks, while `amodal compare` runs and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from amodal.core import AmodalError
from amodal.evaluate.result import json_values
from amodal.serve.limits import Refused
from amodal.studies.comparison import RESULT, Comparison

RUN = "run"
"""In the folder of a comparison: the run of the winner."""


def comparison_of(folder: Path) -> Path | None:
    """The folder of the comparison that a folder is, or whose winner it holds; None for others."""
    for candidate in (folder, folder.resolve().parent if folder.name == RUN else folder):
        if (candidate / RESULT).exists():
            return candidate
    return None


def add(made: APIRouter, folder: Path) -> None:
    """The route of the tab.

    Args:
        made: Gets it.
        folder: Of the comparison.
    """

    @made.get("/view/comparison")
    def comparison() -> Any:
        """The comparison as it is now."""
        try:
            result = Comparison.load(folder)
        except AmodalError as error:
            raise Refused(409, str(error)) from None
        run, choice = folder / RUN, result.choice
        ready = (run / "model.safetensors").exists()
        frozen = choice is not None and choice.kind == "frozen"
        return {
            "title": result.title,
            "sentence": result.sentence,
            "finished": result.finished and (ready or result.winner is None),
            "choice": choice.name if choice else None,
            "entries": json_values(result.rows()),
            "left_out": result.left_out,
            "data": result.about.get("data", ""),
            "test": result.about.get("test"),
            # of the run that was trained, whatever was chosen
            "summary": "" if frozen else result.about.get("summary", ""),
            "frozen": result.about.get("frozen", {}),
            "run": str(run) if ready else "",
        }

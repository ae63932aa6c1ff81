"""Runs of format 1: what their tensors are called now."""

from __future__ import annotations

import re

RENAMED: tuple[tuple[str, str, str], ...] = (("data2vec", r"^predict\.", "predictors."),)
"""(method, or "" for all; a regular expression in a name; what stands there now)."""


def new_name(name: str, method: str = "") -> str:
    """Args: name: of a tensor of a method of format 1; method: whose. Returns: its name now."""
    for of, old, new in RENAMED:
        if of in ("", method):
            name = re.sub(old, new, name)
    return name

"""Synthetic records to count with: noise of the right shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal import data, modalities
from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.modalities.shared.protocols import MakesExamples


def default_tokens() -> dict[str, int]:
    """Modality -> tokens of a value, of the modalities that say so (`example_tokens`)."""
    return {k: m.example_tokens for k, m in modalities.every().items() if m.example_tokens}


def synthetic_records(tokens: Mapping[str, int], records: int) -> Dataset:
    """A dataset of noise in which every record has every field.

    Args:
        tokens: Modality -> about how many tokens a value has.
        records: Number of records.

    Raises:
        AmodalError: For modalities that cannot be synthesized.
    """
    known = {k: m for k, m in modalities.every().items() if issubclass(m, MakesExamples)}
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {}
    fields = {}
    for name, count in tokens.items():
        if name not in known:
            hint = "For others give real records: --data DIR."
            raise unknown("modality of synthetic records", name, known, hint)
        if count < 1:
            raise AmodalError(f"--tokens {name}={count}: a value has at least one token")
        fields[name], make = known[name].example(count, rng)
        columns[name] = [make() for _ in range(records)]
    return data.open(columns, fields=fields)

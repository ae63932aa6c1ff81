"""Records to count with where there is no data yet: noise of the right shape."""

from __future__ import annotations

import numpy as np

from amodal import data, modalities
from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.modalities.shared.base import MakesExamples

DEFAULT = {"image": 196, "text": 64}


def made_up(tokens: dict[str, int], records: int) -> Dataset:
    """kind of data -> about how many tokens a value has; every record has all. Raises AmodalError
    for kinds that it cannot make."""
    makers = {k: m for k, m in modalities.every().items() if issubclass(m, MakesExamples)}
    rng = np.random.default_rng(0)
    columns, fields = {}, {}
    for name, count in tokens.items():
        if name not in makers:
            raise unknown(
                "kind of data to make up", name, makers, "For others give real records: --data DIR."
            )
        if count < 1:
            raise AmodalError(f"--tokens {name}={count}: a value has at least one token")
        fields[name], raw = makers[name].example(count, rng)
        columns[name] = [raw() for _ in range(records)]
    return data.open(columns, fields=fields)

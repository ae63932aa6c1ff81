"""A run as small as can be, for what reads runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def small_run(where: Path, name: str = "run", *, steps: int = 2, **settings) -> Path:
    """Two steps on three fields of generated records."""
    from amodal.train.pretrain import pretrain

    rng = np.random.default_rng(0)
    columns = {
        "text": [f"number {i}, {'odd' if i % 2 else 'even'}" for i in range(60)],
        "signal": [rng.normal(size=(20, 2)).astype(np.float32) for _ in range(60)],
        "cells": [{"age": int(i), "kind": "ab"[i % 2]} for i in range(60)],
    }
    import amodal

    fields = {"text": "text", "signal": "series", "cells": "table"}
    dataset = amodal.open(columns, fields=fields)
    return pretrain(
        "clip",
        dataset,
        where / name,
        size="nano",
        steps=steps,
        batch=8,
        seed=0,
        progress=False,
        **settings,
    )

"""The batches of a run, from any step on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amodal import data as records
from amodal.train import distributed
from amodal.train.run_inputs import Built, Inputs, Prepared


class Batches:
    """This process's share of the batches from any step on, and their unreadable values."""

    def __init__(self, inputs: Inputs, built: Built, prepared: Prepared):
        self.inputs, self.built, self.prepared = inputs, built, prepared
        self.loaders: list[records.Loader] = []

    def __call__(self, first: int, groups: npt.NDArray[np.int64] | None = None) -> records.Loader:
        settings, prepared = self.inputs.settings, self.prepared
        loader = records.Loader(
            prepared.dataset,
            self.inputs.part,
            batch=prepared.pool,
            views=prepared.views,
            seed=settings.seed,
            steps=prepared.recipe.steps,
            start_step=first,
            workers=settings.workers,
            rank=distributed.rank(),
            world=distributed.world(),
            labels=self.built.method.labels,
            groups=groups,
        )
        self.loaders.append(loader)
        return loader

    def quarantined(self) -> int:
        """Write quarantine.jsonl. Returns the number of values in it."""
        rank, loader = distributed.rank(), self.loaders[-1]
        name = "quarantine.jsonl" if rank == 0 else f"quarantine-{rank}.jsonl"
        loader.quarantine(self.prepared.out / name)
        return len(loader.bad)

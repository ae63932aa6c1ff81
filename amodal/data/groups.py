"""Batches of one group each, for methods that compare records only within a group."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt


class GroupSampler:
    """Draws batches of one group. The order is a pure function of (seed, epoch).

    Each epoch the records of a group are shuffled and cut into batches, and the batches of all
    groups come in random order. What is left over of the groups fills batches of remainders, where
    groups with neighbouring numbers meet. Less than a batch is left out at the end of an epoch.

    Args:
        groups: (n,) int64, the group of each record, below 0 for one that is left out.
        batch: records of a batch.
        seed: of the order.
    """

    def __init__(self, groups: npt.ArrayLike, batch: int, seed: int) -> None:
        self.groups, self.batch, self.seed = np.asarray(groups, dtype=np.int64), batch, seed
        self.batches = max(int((self.groups >= 0).sum()) // batch, 1)
        self._epoch = lru_cache(2)(self._order)

    def batch_indices(self, epoch: int, number: int) -> np.ndarray:
        """The records of a batch.

        Args:
            epoch: of the batch.
            number: of the batch in its epoch.

        Returns:
            (batch,) int64, positions in `groups`.
        """
        return self._epoch(epoch)[number]

    def _order(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.groups))
        shuffled = shuffled[self.groups[shuffled] >= 0]
        # stable: by group, and shuffled within it
        shuffled = shuffled[np.argsort(self.groups[shuffled], kind="stable")]
        first = np.flatnonzero(np.diff(self.groups[shuffled], prepend=-1))
        batches: list[np.ndarray] = []
        remainders: list[np.ndarray] = []
        for members in np.split(shuffled, first[1:]):
            cut = len(members) // self.batch * self.batch
            batches += np.split(members[:cut], cut // self.batch) if cut else []
            remainders.append(members[cut:])
        rest = np.concatenate(remainders)
        batches += [
            rest[i : i + self.batch] for i in range(0, len(rest) - self.batch + 1, self.batch)
        ]
        batches = batches or [shuffled]
        return [batches[i] for i in rng.permutation(len(batches))]

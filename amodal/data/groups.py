"""Batches of one group each, for methods that compare records only with their like."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class Groups:
    """groups: (n,) int64, the group of each record, below 0 for one that is left out; batch:
    records of a batch. The order is a pure function of (seed, epoch).

    Records are laid out group after group, those of a group in a new order every epoch, and cut
    into batches, which then come in random order. Groups that are not a multiple of the batch are
    cut off there, and what is cut off meets in batches of the remainders, neighbours in the
    numbering of the groups together; at the end of an epoch less than a batch is left out.
    """

    def __init__(self, groups, batch: int, seed: int):
        self.groups, self.batch, self.seed = np.asarray(groups, dtype=np.int64), batch, seed
        self.batches = max(int((self.groups >= 0).sum()) // batch, 1)
        self._epoch = lru_cache(2)(self._order)

    def at(self, epoch: int, number: int) -> np.ndarray:
        """(batch,) the records, as positions in `groups`, of one batch of an epoch."""
        return self._epoch(epoch)[number]

    def _order(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.groups))
        shuffled = shuffled[self.groups[shuffled] >= 0]
        shuffled = shuffled[np.argsort(self.groups[shuffled], kind="stable")]
        first = np.flatnonzero(np.diff(self.groups[shuffled], prepend=-1))
        whole, rest = [], []
        for members in np.split(shuffled, first[1:]):
            cut = len(members) // self.batch * self.batch
            whole += np.split(members[:cut], cut // self.batch) if cut else []
            rest.append(members[cut:])
        rest = np.concatenate(rest)
        whole += [
            rest[i : i + self.batch] for i in range(0, len(rest) - self.batch + 1, self.batch)
        ]
        whole = whole or [shuffled]
        return [whole[i] for i in rng.permutation(len(whole))]

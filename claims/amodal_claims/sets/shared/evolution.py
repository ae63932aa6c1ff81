"""Evolution on a tree: birth and death of lineages, nucleotides under K80, traits under Brownian
motion.

K80: Kimura, J. Mol. Evol. 1980. Trees: Nee, May & Harvey 1994, grown forward until the wanted
number of lineages live.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TRANSITION = np.array([2, 3, 0, 1])
"""Of A, C, G, T: purines and pyrimidines among themselves."""
TRANSVERSIONS = np.array([[1, 3], [0, 2], [1, 3], [0, 2]])


@dataclass(frozen=True)
class Tree:
    """A phylogenetic tree of N nodes.

    Attributes:
        parent: (N,) the node above each, always of a smaller number; -1 for the root.
        start: (N,) when a node's branch begins, 0 for the root.
        end: (N,) when it ends, 1 for nodes that are alive.
        tips: (S,) the nodes that are alive at the end.
    """

    parent: np.ndarray
    start: np.ndarray
    end: np.ndarray
    tips: np.ndarray

    def clades(self, count: int) -> np.ndarray:
        """Cut the tree at the first moment at which `count` lineages have living offspring.

        Returns:
            (S,) int64, the clade of each tip.
        """
        lines = [self.line(tip) for tip in self.tips]
        lived = np.unique(np.concatenate(lines))
        for moment in np.sort(self.start[lived]):
            owner = [
                next(n for n in line if self.start[n] <= moment < self.end[n]) for line in lines
            ]
            names, clade = np.unique(owner, return_inverse=True)
            if len(names) >= count:
                return clade
        raise ValueError(f"a tree of {len(self.tips)} tips has no {count} clades")

    def line(self, node: int) -> list[int]:
        """The node and all above it."""
        line = [int(node)]
        while self.parent[line[-1]] >= 0:
            line.append(int(self.parent[line[-1]]))
        return line


def birth_death(
    rng: np.random.Generator, tips: int, *, birth: float = 1.0, death: float = 0.3
) -> Tree:
    """Draw a tree of a birth-death process.

    Args:
        rng: of the process.
        tips: living lineages at the end.
        birth: rate.
        death: rate.

    Returns:
        The tree, its height scaled to 1.
    """
    while True:
        parent, start, end, alive, now = [-1], [0.0], [np.inf], [0], 0.0
        while alive and len(alive) < tips:
            now += rng.exponential(1 / ((birth + death) * len(alive)))
            node = alive.pop(int(rng.integers(len(alive))))
            end[node] = now
            if rng.random() < birth / (birth + death):
                alive += [len(parent), len(parent) + 1]
                parent, start, end = parent + [node] * 2, start + [now] * 2, end + [np.inf] * 2
        if alive:
            height = now + rng.exponential(1 / ((birth + death) * tips))
            over = np.minimum(end, height) / height
            return Tree(np.array(parent), np.array(start) / height, over, np.array(sorted(alive)))


def k80(length: npt.ArrayLike, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of substitutions after a branch under K80.

    Args:
        length: expected substitutions a site.
        kappa: rate of transitions over the rate of one transversion.

    Returns:
        The probabilities of a transition, and of any of the two transversions.
    """
    beta = np.asarray(length) / (kappa + 2)
    transversion_decay, transition_decay = np.exp(-4 * beta), np.exp(-2 * (kappa + 1) * beta)
    return 0.25 + 0.25 * transversion_decay - 0.5 * transition_decay, 0.5 - 0.5 * transversion_decay


def mutated(
    sequence: np.ndarray, length: np.ndarray | float, rng: np.random.Generator, *, kappa: float
) -> np.ndarray:
    """A sequence after a branch.

    Args:
        sequence: (L,) codes of A, C, G, T before it.
        length: expected substitutions a site, of all sites or (L,).
        rng: of the substitutions.
        kappa: as in `k80`.
    """
    transition, transversion = k80(length, kappa)
    luck, side = rng.random(len(sequence)), rng.integers(2, size=len(sequence))
    other = np.where(luck < transition, TRANSITION[sequence], TRANSVERSIONS[sequence, side])
    return np.where(luck < transition + transversion, other, sequence)


def sequences(
    tree: Tree, root: np.ndarray, rate: np.ndarray, rng: np.random.Generator, *, kappa: float
) -> np.ndarray:
    """Evolve a sequence along a tree.

    Args:
        tree: with N nodes.
        root: (L,) codes of A, C, G, T.
        rate: (L,) substitutions a unit of time.
        rng: of the substitutions.
        kappa: as in `k80`.

    Returns:
        (N, L), the sequence at the end of each node's branch.
    """
    values: list[np.ndarray] = []
    for node, above in enumerate(tree.parent):
        before = root if above < 0 else values[above]
        values.append(mutated(before, rate * (tree.end[node] - tree.start[node]), rng, kappa=kappa))
    return np.stack(values)


def traits(tree: Tree, count: int, rng: np.random.Generator) -> np.ndarray:
    """Evolve traits along a tree by Brownian motion, from 0 at the root.

    Args:
        tree: with N nodes.
        count: how many traits.
        rng: of the motion.

    Returns:
        (N, count), the traits at the end of each node's branch. Their variance is 1 after the whole
        height.
    """
    values: list[np.ndarray] = []
    for node, above in enumerate(tree.parent):
        before = np.zeros(count) if above < 0 else values[above]
        values.append(
            before + np.sqrt(tree.end[node] - tree.start[node]) * rng.standard_normal(count)
        )
    return np.stack(values)

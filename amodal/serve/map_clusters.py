"""Clusters of the records on a map, with names of few words."""

from __future__ import annotations

import numpy as np
import torch

from amodal.cluster.descriptions import cluster_words
from amodal.cluster.groups import by_kmeans
from amodal.data.attributes import Attributes
from amodal.serve.embedding_map import TILE, EmbeddingMap
from amodal.serve.facet import Facet
from amodal.stats.kmeans import assign

NUMBERS = (5, 6, 8, 10, 12)
"""Of clusters that are tried; the one with the largest silhouette is taken."""
MAX_FITTED = 3000
"""Vectors that clusters are fitted on; the others get the nearest centre."""
MAX_DESCRIBED = 1000
"""Records whose values are read for names."""
MIN_MEMBERS = 4
"""Records for each cluster that is tried."""


class MapClusters:
    """Clusters of all records.

    Args:
        embedding_map: Of the records.
        attributes: Of the data, for names.
    """

    def __init__(self, embedding_map: EmbeddingMap, attributes: Attributes):
        self.embedding_map, self.attributes = embedding_map, attributes

    def facet(self, field: str = "") -> Facet | None:
        """The clusters of a field's vectors, of the fused ones if "", once they are there.

        Raises:
            AmodalError: For an unknown field.
        """
        if field:
            self.embedding_map.present(field)  # raises
        found: Facet | None = self.embedding_map.in_background(self.fitted, field)
        return found

    def fitted(self, field: str) -> Facet:
        """Cluster the records. Those that lack the field have none."""
        total = len(self.embedding_map.keys)
        everyone = np.full(total, -1, dtype=np.int64)
        column = self.embedding_map.column([field] if field else [])
        if not len(column):
            return Facet(everyone, ())
        rng = np.random.default_rng(0)
        some = np.sort(rng.choice(len(column), min(MAX_FITTED, len(column)), replace=False))
        z_nD = column.flat[torch.from_numpy(some)]
        numbers = [n for n in NUMBERS if n * MIN_MEMBERS <= len(some)] or [1]
        cluster_n = torch.from_numpy(by_kmeans(z_nD, numbers).cluster_N)
        centres_KD = torch.stack([z_nD[cluster_n == c].mean(0) for c in cluster_n.unique()])
        parts = [assign(z.double(), centres_KD.double())[0] for z in column.flat.split(TILE)]
        rows = column.rows.numpy()
        everyone[rows] = torch.cat(parts).numpy()
        described = np.sort(rng.choice(rows, min(MAX_DESCRIBED, len(rows)), replace=False))
        labels = {name: v[described] for name, v in self.embedding_map.labels.items()}
        keys = [self.embedding_map.keys[i] for i in described]
        words = cluster_words(self.attributes, keys, everyone[described], labels)
        names: list[str] = []
        for c in range(len(centres_KD)):
            name = words.get(c) or f"cluster {c + 1}"
            names.append(name if name not in names else f"{name} ({c + 1})")
        return Facet(everyone, tuple(names))

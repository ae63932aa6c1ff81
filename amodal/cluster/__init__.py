"""Clusters of records without any label: which, how many, and what sets each apart."""

from amodal.cluster.clustering import cluster as cluster
from amodal.cluster.result import Clustering as Clustering

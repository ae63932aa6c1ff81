"""Protocols, one a file: `knn.py` is the protocol `knn`."""

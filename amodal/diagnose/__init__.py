"""Diagnostics of embeddings without labels: dimensions in use, and how fields relate."""

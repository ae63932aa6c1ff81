"""Fusion: several sources of a row become one vector."""

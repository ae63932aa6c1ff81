"""Several sources of a row become one vector."""

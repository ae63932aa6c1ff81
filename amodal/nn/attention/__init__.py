"""Attention over flat lists of tokens: the layout, who may read whom, and one list that reads
another."""

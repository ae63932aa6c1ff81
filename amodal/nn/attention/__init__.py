"""Attention over flat lists of tokens: layouts without padding, mask rules, cross-attention."""

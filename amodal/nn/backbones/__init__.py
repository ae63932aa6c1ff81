"""Pretrained networks that take the place of a tokenizer."""

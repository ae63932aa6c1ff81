"""Pretrained networks behind the face of a tokeniser."""

"""Heads on top of encoders."""

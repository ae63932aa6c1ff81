"""Decoders and what they write: tokens, values, identifiers of records."""

"""Statistics that are no network: clustering, CCA, kernels, topics, survival, and how scores are
computed.

A library does it where its result is equal. Each module says in its first lines which one, or why
the code is ours.
"""

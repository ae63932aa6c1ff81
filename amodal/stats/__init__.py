"""Statistics without networks: clustering, CCA, kernels, topics, survival, and scores.

A library does it where its result is equal. Each module says in its first lines which one, or why
the code is ours.
"""

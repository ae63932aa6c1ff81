"""Statistics that are no network: clustering, CCA, kernels, topics, survival, and how scores are computed."""

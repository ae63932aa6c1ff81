"""What is added to a trained encoder so that little of it has to learn: low rank, prompts,
adapters."""

"""Parameter-efficient tuning of trained encoders: low rank, prompts, adapters, biases."""

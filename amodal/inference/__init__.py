"""What a trained model gives for data: embeddings, predictions and generated keys of records."""

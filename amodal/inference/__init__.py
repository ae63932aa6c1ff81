"""What a trained model makes of data: vectors, predictions, names of records. Below `evaluate`,
`search`, `serve` and `export`."""

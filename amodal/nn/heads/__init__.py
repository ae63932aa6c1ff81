"""What stands between vectors or tokens and a loss or a label."""

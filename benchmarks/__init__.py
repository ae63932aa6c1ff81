"""Speed and memory against the libraries people use today: `python -m benchmarks [name ...]`."""

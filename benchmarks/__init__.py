"""Speed and memory against the libraries people use today: `python -m benchmarks [name ...]`."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "9"
)  # read when torch is loaded; else the profiler talks between the rows

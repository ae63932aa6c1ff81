"""What has to be seen on a GPU, by one command; see `scripts/on_gpu/__main__.py`."""

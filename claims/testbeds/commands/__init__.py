"""One file a command: `python -m testbeds list` is `commands/list.py`, which has main(arguments)."""

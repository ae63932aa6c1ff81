"""One page a testbed, with TESTBED; its docstring is the card."""

"""Data sets that claims are tested on and nothing else, registered as `amodal.datasets`.

Most are generated, because the truth must be known exactly; the others are cut for one question.
"""

"""Which tokens are hidden.

Every mask is a function of a seed per row and of nothing else about the batch. So it is the same in
a micro-batch, on another number of processes, and after a resume.
"""

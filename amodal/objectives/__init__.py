"""One formula a file: tensors in, scalar out. Nothing here knows a method, a configuration or a
process group."""

"""What the server of `tests.processes` imports before it forks."""

import torch.distributed.tensor
import torch.fx.experimental.symbolic_shapes  # noqa: F401  # the first gradient of a rank does

import amodal.train.pretrain  # noqa: F401
from amodal import methods

for name in methods.names():
    methods.page(name)

"""BitFit: only the biases of a trained network learn.

Ben Zaken et al., ACL 2022, arXiv:2106.10199.
"""

from torch import nn


def bitfit(module: nn.Module) -> nn.Module:
    """The module with everything frozen but the biases; what was frozen before stays so."""
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and name.rpartition(".")[2].startswith("bias"))
    return module

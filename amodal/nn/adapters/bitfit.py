"""BitFit: of a trained network only the biases go on learning. Ben Zaken et al., ACL 2022,
arXiv:2106.10199."""

from torch import nn


def bitfit(module: nn.Module) -> nn.Module:
    """The module with everything frozen but the biases; what was frozen before stays so, and a
    second call changes nothing."""
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and name.rpartition(".")[2].startswith("bias"))
    return module

"""The optimizer of a recipe: torch's AdamW, or one of timm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, unknown
from amodal.core.recipe import Recipe
from amodal.train import distributed

BLOCK = re.compile(r"^(.*?)\b(?:blocks|layers)\.(\d+)\.")
FSDP_OPTIMIZERS = ("adamw", "sgd", "lion")
"""Optimizers with elementwise updates, for which a rank's shard of a parameter is enough."""


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    lr_multipliers: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW on all parameters that require a gradient; see `parameter_groups`."""
    groups = parameter_groups(
        module, lr=lr, weight_decay=weight_decay, lr_multipliers=lr_multipliers
    )
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    lr_multipliers: Mapping[str, float] | None = None,
    layer_decay: float = 1.0,
    only: Iterable[Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Group the parameters that require a gradient, as `torch.optim` takes them.

    Matrices decay; vectors and scalars (norms, biases, tokens, temperatures) do not. Sharded
    parameters have groups of their own: one fused call cannot mix them with whole ones.

    Args:
        lr_multipliers: Prefix of a parameter's name -> multiplier of its learning rate. The first
            prefix that fits counts. A group holds it as `lr_multiplier`.
        layer_decay: Multiplier of the learning rate for each layer between a parameter and the
            output.
        only: The parameters to take; None for all.
    """
    layers = layers_above(module) if layer_decay != 1.0 else {}
    wanted = None if only is None else {id(p) for p in only}
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad and (wanted is None or id(p) in wanted):
            prefixes = (lr_multipliers or {}).items()
            multiplier = next((m for prefix, m in prefixes if name.startswith(prefix)), 1.0)
            multiplier *= layer_decay ** layers.get(name, 0)
            groups.setdefault((multiplier, p.dim() > 1, is_sharded(p)), []).append(p)
    return [
        {
            "params": params,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": lr * multiplier,
            "lr_multiplier": multiplier,
            "decays": decays,
        }
        for (multiplier, decays, _), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def layers_above(module: nn.Module) -> dict[str, int]:
    """The number of layers between each parameter of `module.encoder` and its output.

    A block counts as one layer. Tokenizers lie below all blocks of the deepest trunk, and the
    blocks of a pretrained backbone below those. Heads, and parameters outside the encoder, have
    none.
    """
    names = [n for n, _ in module.named_parameters() if n.startswith("encoder.")]
    matches = {name: BLOCK.match(name) for name in names}
    depths: dict[str, int] = {}
    for match in filter(None, matches.values()):
        # stack of blocks -> how many it has
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    # trunks of groups of fields lie below the blocks of all fields, see `nn.fusion.grouped_trunk`
    behind = {
        stack: max((d for s, d in depths.items() if s.startswith(f"{before}.joint.")), default=0)
        for stack in depths
        if (before := stack.partition(".towers.")[0]) != stack
    }
    depths |= {stack: depths[stack] + most for stack, most in behind.items()}
    trunk = max((d for stack, d in depths.items() if ".tokenizers." not in stack), default=0)
    layers = {}
    for name, found in matches.items():
        below = ".tokenizers." in name
        if found is not None:
            layers[name] = depths[found[1]] - int(found[2]) + (trunk if below else 0)
        elif below:
            stack = max((d for s, d in depths.items() if name.startswith(s)), default=0)
            layers[name] = trunk + stack + 1
    return layers


def make(
    recipe: Recipe,
    module: nn.Module,
    *,
    lr_multipliers: Mapping[str, float] | None = None,
    only: Iterable[Tensor] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe, whose lr must be set.

    Args:
        lr_multipliers, only: See `parameter_groups`. Those of the recipe come first.

    Raises:
        AmodalError: If no parameter requires a gradient, and for a beginning in the recipe that no
            parameter's name has.
    """
    assert recipe.lr is not None
    groups = parameter_groups(
        module,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        lr_multipliers=checked_prefixes(recipe, module) | dict(lr_multipliers or {}),
        layer_decay=recipe.layer_decay,
        only=only,
    )
    if not groups:
        raise AmodalError("there is nothing to optimize: no parameter requires a gradient")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    return _of_timm(recipe, module, groups)


def checked_prefixes(recipe: Recipe, module: nn.Module) -> dict[str, float]:
    """The recipe's multipliers, each of which is of some parameter.

    Raises:
        AmodalError: For one that is of none.
    """
    chosen, names = dict(recipe.lr_multipliers or {}), [n for n, _ in module.named_parameters()]
    for prefix in chosen:
        if not any(name.startswith(prefix) for name in names):
            parts = dict.fromkeys(name.rpartition(".")[0] + "." for name in names)
            shorter = dict.fromkeys(name.partition(".")[0] + "." for name in names)
            raise unknown(
                "beginning of a parameter's name", prefix, [*shorter, *parts], "In lr_multipliers."
            )
    return chosen


def _of_timm(
    recipe: Recipe, module: nn.Module, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # no __all__ in timm

    name = recipe.optimizer
    settings: dict[str, Any] = {}
    if name == "sgd":
        name, settings = "momentum", {"momentum": recipe.momentum}  # without Nesterov's step
    elif name == "lion":
        settings = {"betas": recipe.betas}
    elif name == "lars":
        settings = {"momentum": recipe.momentum}
    elif name == "lamb":
        settings = {"betas": recipe.betas, "max_grad_norm": None}  # `clip` is for that
    elif name == "muon":
        settings = {"momentum": recipe.momentum, "betas": recipe.betas}
        groups = _muon_groups(module, groups)
    if name in ("lars", "lamb"):  # layer-wise rates are for matrices, whether or not they decay
        groups = [group | {"always_adapt": group["decays"]} for group in groups]
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=name, lr=recipe.lr, weight_decay=recipe.weight_decay, **settings
    )
    return optimizer


def _muon_groups(module: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split groups: Muon for matrices between hidden layers, AdamW for everything else.

    Everything else: vectors, tokens and embedding tables.
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}

    def by_muon(p: Tensor) -> bool:
        return p.dim() > 1 and min(p.shape) > 1 and id(p) not in tables

    halves = [
        group
        | {"params": [p for p in group["params"] if by_muon(p) is yes], "use_fallback": not yes}
        for group in groups
        for yes in (True, False)
    ]
    return [group for group in halves if group["params"]]


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`.

    `torch.nn.utils.clip_grad_norm_` does not take a mix of whole and sharded parameters.

    Returns:
        The norm before, a scalar on the device.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    plain = [g for g in grads if not is_sharded(g)]
    split = [g for g in grads if is_sharded(g)]
    # the norm of a sharded gradient is that of all shards once it is a full tensor, a collective
    norms = [*torch._foreach_norm(plain), *(distributed.full_tensor(g.norm()) for g in split)]
    norm: Tensor = torch.stack(norms).norm()
    # no `if norm > max_norm`, which would wait for a GPU; max_norm = inf gives 1
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(plain, scale)
    for g in split:
        g.mul_(scale)
    return norm


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor of FSDP2."""
    return hasattr(tensor, "device_mesh")

"""Optimizers: our AdamW, and others of timm, by what a recipe says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.recipe import Recipe
from amodal.train import distributed

BLOCK = re.compile(r"^(.*?)\b(?:blocks|layers)\.(\d+)\.")
FSDP_OPTIMIZERS = ("adamw", "sgd", "lion")
"""Those whose update of a parameter needs no more than the part of it that a process holds."""


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW on all that learns; see `grouped`."""
    groups = grouped(module, lr=lr, weight_decay=weight_decay, rates=rates)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def grouped(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
    layer_decay: float = 1.0,
    only: Iterable[Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Groups of the parameters that learn.

    Matrices decay; vectors and scalars (norms, biases, tokens, temperatures) do not. Sharded
    parameters have groups for themselves: one fused call cannot mix them with whole ones.

    Args:
        rates: the beginning of a name -> times the learning rate, which a group holds as `times`.
        layer_decay: times the learning rate, for each layer between a parameter and the output.
        only: some of the parameters; all unless given.
    """
    layers, wanted = layers_above(module) if layer_decay != 1.0 else {}, None
    if only is not None:
        wanted = {id(p) for p in only}
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad and (wanted is None or id(p) in wanted):
            times = next((t for start, t in (rates or {}).items() if name.startswith(start)), 1.0)
            times *= layer_decay ** layers.get(name, 0)
            groups.setdefault((times, p.dim() > 1, sharded(p)), []).append(p)
    return [
        {
            "params": params,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": lr * times,
            "times": times,
            "decays": decays,
        }
        for (times, decays, _), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def layers_above(module: nn.Module) -> dict[str, int]:
    """Layers between each parameter of `encoder` and its output; heads and what lies outside it
    have none.

    A block counts one. Tokenizers lie below all blocks of the deepest trunk, and the blocks of a
    pretrained backbone below those.
    """
    names = [n for n, _ in module.named_parameters() if n.startswith("encoder.")]
    found = {name: BLOCK.match(name) for name in names}
    depths: dict[str, int] = {}
    for match in filter(None, found.values()):
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    trunk = max((d for stack, d in depths.items() if ".tokenizers." not in stack), default=0)
    layers = {}
    for name, match in found.items():
        below = ".tokenizers." in name
        if match is not None:
            layers[name] = depths[match[1]] - int(match[2]) + (trunk if below else 0)
        elif below:
            stack = max((d for s, d in depths.items() if name.startswith(s)), default=0)
            layers[name] = trunk + stack + 1
    return layers


def make(
    recipe: Recipe,
    module: nn.Module,
    *,
    rates: Mapping[str, float] | None = None,
    only: Iterable[Tensor] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe, on all that learns or on some of it.

    The recipe's lr must be set.
    """
    assert recipe.lr is not None
    groups = grouped(
        module,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        rates=rates,
        layer_decay=recipe.layer_decay,
        only=only,
    )
    if not groups:
        raise AmodalError("an optimizer was asked for, and nothing is left to learn")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    return _of_timm(recipe, module, groups)


def _of_timm(
    recipe: Recipe, module: nn.Module, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    name, settings = recipe.optimizer, dict[str, Any]()
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
    return create_optimizer_v2(
        groups, opt=name, lr=recipe.lr, weight_decay=recipe.weight_decay, **settings
    )


def _muon_groups(module: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Muon turns matrices between hidden layers.

    Vectors, tokens and tables of embeddings learn by AdamW.
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}

    def turned(p: Tensor) -> bool:
        return p.dim() > 1 and min(p.shape) > 1 and id(p) not in tables

    halves = [
        group
        | {"params": [p for p in group["params"] if turned(p) is yes], "use_fallback": not yes}
        for group in groups
        for yes in (True, False)
    ]
    return [group for group in halves if group["params"]]


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their norm together is at most `most`; returns the norm before.
    Whole and sharded parameters may be mixed, which torch's function does not take."""
    grads = [p.grad for p in parameters if p.grad is not None]
    plain, split = [g for g in grads if not sharded(g)], [g for g in grads if sharded(g)]
    norm = torch.stack(
        [*torch._foreach_norm(plain), *(distributed.whole(g.norm()) for g in split)]
    ).norm()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(plain, scale)
    for g in split:
        g.mul_(scale)
    return norm


def sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")

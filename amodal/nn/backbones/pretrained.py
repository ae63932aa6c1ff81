"""Pretrained backbones behind the face of a tokeniser: (column, name, size) -> Tokens that have
already seen each other.

`timm:NAME[:SIZE][@WEIGHTS]`: any image model of timm. WEIGHTS is a file (safetensors, or .pth
without code in it) or the word `pretrained` for timm's own download. SIZE is the side that images
are resized to, the model's own by default. `transformers:DIR`: a text or image model saved in a
local directory. `voice:resemblyzer@WEIGHTS`: speakers' voices in sound at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from amodal import modalities
from amodal.core import AmodalError, Column, Ragged, Tokens, unknown
from amodal.core.part import Part
from amodal.core.registry import canonical, plugins
from amodal.nn.backbones.body import LEAST, LoadReport
from amodal.nn.backbones.module import ModuleBackbone
from amodal.nn.backbones.plugin import PluginBackbone

Body = nn.Module
"""values of N rows -> (features (T, width), lengths (N,), positions (T, 3)); has `width`, and
`example`, one row of values."""


def backbone(
    spec: str | nn.Module | Callable[[], nn.Module],
    modality,
    width: int,
    *,
    frozen: bool = True,
    load: bool = True,
    least: float = LEAST,
) -> Part:
    """spec: see above, or a module of the user's own, or a function that makes one; modality: the
    field's; width: of the tokens, made by a learned linear map.

    frozen: the model's own parameters do not learn. load: False builds the model alone, for weights
    that a checkpoint holds. least: share of the parameters that the weights must match. Raises
    AmodalError.
    """
    if not isinstance(spec, str):
        return user_module(spec, modality, width, frozen)
    library, _, rest = spec.partition(":")
    if library not in LIBRARIES and canonical(library) in plugins("backbones"):
        return PluginBackbone(spec, modality, width, frozen=frozen)
    if library not in LIBRARIES or not rest:
        raise unknown(
            "library of backbones",
            library,
            [*LIBRARIES, *plugins("backbones")],
            "Expected timm:NAME@WEIGHTS, transformers:DIR, or the name of an installed plug-in.",
        )
    if library not in modality.backbones:
        kinds = [name for name, kind in modalities.every().items() if library in kind.backbones]
        raise AmodalError(
            f"{library} backbones are for {' and '.join(kinds)} fields, but this field is {modality.kind}: {spec}"
        )
    if library == "timm":
        from amodal.nn.backbones.timm import build
    elif library == "voice":
        from amodal.nn.backbones.voice import build
    else:
        from amodal.nn.backbones.transformers import build
    body, spec, report = build(rest, modality, load)
    if load and report is None and frozen:
        raise AmodalError(
            f"{spec} names no weights, so it would stay random: add @/path/to/weights.safetensors or @pretrained, or let it learn "
            "(frozen=False)"
        )
    if report is not None:
        report.check(least)
    return Backbone(body, spec, width, modality=modality, frozen=frozen, report=report)


def user_module(module: object, modality, width: int, frozen: bool) -> Part:
    """A module of the user's own, or what a factory without arguments makes. Raises AmodalError for
    anything else."""
    made = module if isinstance(module, nn.Module) or not callable(module) else module()
    if isinstance(made, Backbone):
        return made
    if not isinstance(made, nn.Module):
        raise AmodalError(
            f"a backbone is a name such as timm:resnet18@pretrained, a torch module, or a function that makes one, not {module!r}"
        )
    return ModuleBackbone(made, modality, width, frozen=frozen)


LIBRARIES = ("timm", "transformers", "voice")


class Backbone(Part):
    """name: builds the same module again, without its weights; report: what the weights matched,
    None if none were loaded.

    In place of values it takes what its model made of them before, rows of (tokens, width + 3):
    features and positions.

    The model is always in evaluation mode: dropout draws from no row's seed, and batch statistics
    would make a row depend on the rows beside it.
    """

    contextual = True

    def __init__(
        self,
        body: Body,
        name: str,
        width: int,
        *,
        modality,
        frozen: bool,
        report: LoadReport | None = None,
    ):
        super().__init__()
        self.body, self.name, self.frozen, self.report = body, name, frozen, report
        self.describe_as(spec=name, modality=modality, width=width)
        self.project = nn.Linear(body.width, width)
        self.train(self.training)
        self.body.requires_grad_(False)
        if not frozen:
            self.thaw()

    def describe_as(self, **args) -> None:
        """By its name: weights are the run's own."""
        object.__setattr__(self, "_args", args)

    @classmethod
    def from_args(cls, spec: str, modality, width: int) -> Backbone:
        """The same module, without its weights."""
        return backbone(spec, modality, width, load=False)

    def load_body(self, other: Backbone) -> None:
        """Take the pretrained weights of another one of this name."""
        self.body.load_state_dict(other.body.state_dict())

    def thaw(self) -> None:
        """The model's own parameters learn from now on."""
        self.frozen = False
        self.body.requires_grad_(True)
        _stop_unused(self.body)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if (
                isinstance(column.values, Ragged) and column.values.flat.dim() == 2
            ):  # looked at before
                flat, lengths = column.values.flat, column.values.lengths
                features, position = flat[:, :-3].to(self.project.weight.dtype), flat[:, -3:]
            elif len(column):
                features, lengths, position = self.body(column.values)
            else:  # no row: every parameter still becomes part of the graph
                features, lengths, position = (
                    t[:0] for t in self.body(self.body.example().to(column.rows.device))
                )
        return Tokens.of(self.project(features), column.rows, lengths, position, name, size)

    def extra_repr(self) -> str:
        return f"{self.name!r}, frozen={self.frozen}"


def _stop_unused(body: Body) -> None:
    """Parameters that no token depends on (poolers, norms before a head) do not learn."""
    parameters = [p for p in body.parameters() if p.requires_grad]
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            body(body.example())[0].sum(), parameters, allow_unused=True
        )
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad_(gradient is not None)

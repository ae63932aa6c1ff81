"""A module of the user's own as the backbone of a field."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens, field_of
from amodal.core.part import Part, part_name, take, to_spec
from amodal.core.references import dotted_name
from amodal.core.source_code import source_hash
from amodal.core.user_code import user_code
from amodal.modalities import Modality
from amodal.nn.backbones.module_output import (
    NanFlag,
    as_weights,
    check_has_values,
    forward_of,
    tokens_of,
)
from amodal.nn.batch_norm import no_rows, with_whole_batch_norm


class ModuleBackbone(Part):
    """A module whose outputs are the tokens of a field, mapped to the encoder's width.

    Args:
        module: Takes the values of N rows, as the field's modality collates them (of a table with
            the means of columns in place of missing cells): a tensor (N, …), or a padded tensor
            (N, L, …) and lengths (N,). Returns (N, D), (N, T, D), or maps (N, D, H, W). It runs in
            the mode of the encoder; its BatchNorm sees all present rows of the batch while it
            learns, and is in evaluation mode while it is frozen.
        modality: Of the field.
        width: Of the tokens.
        frozen: The module's own parameters do not learn.

    Raises:
        AmodalError: For values that the module cannot take.
    """

    source: str
    contextual = True
    report = None

    def __init__(self, module: nn.Module, modality: Modality, width: int, *, frozen: bool = True):
        super().__init__()
        self.module, self.frozen, self.name = module, frozen, dotted_name(type(module))
        self.source = source_hash(module)
        self.nan, self.described_as = NanFlag(), f"the backbone {self.name}"
        check_has_values(module, self.described_as)
        if frozen:
            module.eval()  # BatchNorm in training takes no single row, which `example` is
        else:
            self.module = with_whole_batch_norm(module)
        self.described_as += f", called with {modality.kind} values, {described(modality)},"
        with torch.no_grad(), no_rows():
            x, _ = self._tokens(modality.for_module(example(modality)))
        self.project = nn.Linear(x.shape[1], width)
        self.modality, self.width_out = modality, width
        self.module.requires_grad_(not frozen)
        self.train(self.training)

    @property
    def spec(self) -> dict[str, Any]:
        """The module's name and source, but not its code."""
        args = {"name": self.name, "source": self.source, "frozen": self.frozen}
        args |= {"modality": self._args["modality"], "width": self.width_out}
        return {"part": part_name(type(self)), "args": to_spec(args)}

    @classmethod
    def from_args(  # type: ignore[override]  # takes what `spec` writes
        cls, name: str, source: str, modality: Modality, width: int, frozen: bool, field: str = ""
    ) -> ModuleBackbone:
        """The same, around a copy of the module that the caller of `load` supplied for a field."""
        call = f"amodal.load(RUN, backbones={{{field or 'FIELD'!r}: MODULE}})"
        module = take(
            supplied_as(field),
            f"the module {name} as a backbone",
            f"pass it when you load the run: {call}",
        )
        if (supplied_name := dotted_name(type(module))) != name:
            raise AmodalError(
                f"this run was trained with the module {name} as the backbone of {field!r}, not "
                f"with {supplied_name}; pass it when you load the run: {call}"
            )
        return cls(copy_of(module), modality, width, frozen=frozen)

    @property
    def body(self) -> nn.Module:
        """The module, under the name that backbones of libraries have for theirs."""
        return self.module

    def load_body(self, other: ModuleBackbone) -> None:
        """Take the module's weights of another backbone."""
        self.module.load_state_dict(other.module.state_dict())

    def pass_gradients(self) -> None:
        """Compute gradients in the model, for adapters in it; its own parameters stay frozen."""
        self.frozen = False

    def thaw(self) -> None:
        """The module's own parameters learn from now on."""
        self.frozen = False
        self.module = with_whole_batch_norm(self.module)
        self.module.requires_grad_(True)

    def train(self, mode: bool = True) -> ModuleBackbone:
        """Training or evaluation mode; a frozen module stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.module.eval()
        return self

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Values of N rows -> tokens, x (T, width). name: of the source; size: B."""
        self.described_as = f"the backbone {self.name} of the field {field_of(name)!r}"
        x_TD, lengths, position = self.features(column)
        if self.training:
            self.nan.add(x_TD)
        return Tokens.of(self.project(x_TD), column.rows, lengths, position, name, size)

    def features(self, column: Column) -> tuple[Tensor, Tensor, Tensor]:
        """What the module alone makes of N values: features (T, D), lengths (N,), positions (T,
        3)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if len(column):
                x_TD, lengths = self._tokens(self.modality.for_module(column.values))
            else:  # no row: every parameter still becomes part of the graph
                with no_rows():
                    x_TD, lengths = (
                        t[:0]
                        for t in self._tokens(
                            self.modality.for_module(example(self.modality, column.rows.device))
                        )
                    )
        position = x_TD.new_zeros(len(x_TD), 3)
        # position: the number of a token in its row; a module does not say where its tokens lie
        position[:, 0] = torch.arange(len(x_TD), device=x_TD.device) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths, lengths
        )
        return x_TD, lengths, position

    def _tokens(self, values: Tensor | Ragged) -> tuple[Tensor, Tensor]:
        """(T, D) tokens of all rows and their numbers (N,)."""
        inputs: tuple[Tensor, ...]
        if isinstance(values, Ragged):
            rows = list(torch.split(values.flat, values.lengths.tolist()))
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            inputs = (padded, values.lengths)
        else:
            inputs = (values,)
        with forward_of(self.described_as):
            out = self.module(*inputs)
        out = tokens_of(out, len(values), inputs[0].device, self.described_as)
        (n, count, width), project = out.shape, getattr(self, "project", None)
        if project is not None:
            if width != project.in_features:
                raise AmodalError(
                    f"{self.described_as} gave {width} features, and {project.in_features} when "
                    "it was built; their number must stay"
                )
            out = as_weights(out, project.weight)
        return out.flatten(0, 1), torch.full((n,), count, dtype=torch.int64, device=out.device)


def supplied_as(field: str) -> str:
    """The name by which the caller of `load` supplies the module of a field."""
    return f"backbone:{field}"


def for_field(spec: Any, field: str) -> Any:
    """The spec of a field's backbone; one around a module of the user's own is told the field."""
    if is_own_module(spec):
        return spec | {"args": spec["args"] | {"field": field}}
    return spec


def is_own_module(spec: Any) -> bool:
    """Whether a spec is of a backbone around a module of the user's own."""
    return isinstance(spec, dict) and spec.get("part") == part_name(ModuleBackbone)


def made_module(backbone: object) -> nn.Module:
    """A module of the user's own, or what a factory without arguments makes.

    Raises:
        AmodalError: For anything else, and for a factory that raises.
    """
    if isinstance(backbone, nn.Module):
        return _made(backbone)
    made: object = None
    if callable(backbone):
        name = getattr(backbone, "__name__", type(backbone).__name__)
        with user_code(f"{name}(), called without arguments to make a backbone,", backbone):
            made = backbone()
        received = f"{name}(), which returned {type(made).__name__}"
    else:
        received = f"of type {type(backbone).__name__}"
    if not isinstance(made, nn.Module):
        raise AmodalError(
            "a backbone is a name such as timm:resnet18@pretrained, a torch module, or a function "
            f"without arguments that makes one, not {received}"
        )
    return _made(made)


def _made(module: nn.Module) -> nn.Module:
    """The module. Raises AmodalError for one whose class leaves torch's constructor out."""
    if "_modules" not in vars(module):
        raise AmodalError(
            f"the backbone {type(module).__qualname__} is no complete module: its __init__ must "
            "begin with super().__init__()"
        )
    return module


def copy_of(module: nn.Module) -> nn.Module:
    """A copy of a module of the user's own, which shares no weights with it.

    What is filled and trained is a copy: the same module may be passed for several runs, and no
    model that it was passed for changes by what is done with another.

    Raises:
        AmodalError: For a module that cannot be copied.
    """
    name = dotted_name(type(module))
    advice = "Pass its class, or a function without arguments that makes it, or let it be copied"
    with user_code(f"copy.deepcopy of the module {name}", advice=advice):
        return copy.deepcopy(module)


def check_apart(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Check that the modules of different fields have no weights and no layers in common.

    Args:
        modules: (field, module).

    Raises:
        AmodalError: If they have; every field's module is trained and stored on its own.
    """
    seen: dict[int, str] = {}
    for field, module in modules:
        # a layer without weights, such as one ReLU for all, is the same wherever it stands
        parts = [module, *module.parameters(), *module.buffers()]
        for part in parts:
            if (other := seen.setdefault(id(part), field)) != field:
                what = "are the same module" if part is module else "share weights"
                raise AmodalError(
                    f"the backbones of {other!r} and {field!r} {what}, and each field trains its "
                    f"own: pass two modules, such as copy.deepcopy of the one, or a class or "
                    "function without arguments that makes a new one"
                )


def described(modality: Modality) -> str:
    """What a module is given, in words."""
    values = example(modality)
    if isinstance(values, Ragged):
        shape = tuple(values.flat.shape[1:])
        return f"padded values (N, L{''.join(f', {n}' for n in shape)}) and lengths (N,)"
    return f"a tensor (N{''.join(f', {n}' for n in values.shape[1:])})"


def example(modality: Modality, device: torch.device | str = "cpu") -> Tensor | Ragged:
    """One row of zeros in the shape in which a modality collates values."""
    none = modality.collate([])
    if isinstance(none, Ragged):
        flat = none.flat.new_zeros(EXAMPLE_LENGTH, *none.flat.shape[1:], device=device)
        return Ragged(flat, torch.tensor([EXAMPLE_LENGTH], device=device))
    return none.new_zeros(1, *none.shape[1:], device=device)


EXAMPLE_LENGTH = 8

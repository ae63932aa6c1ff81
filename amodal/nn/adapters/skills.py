"""Skills: copies of a part of every block, of which a rule switches on those that a field needs.

Dai et al. 2022, arXiv:2205.06126 (SkillNet for text, sound, image, video and code), copies of the
projections of attention; Zhang et al. 2022, arXiv:2203.03312 (SkillNet-NLU), copies of the
perceptron. A block gives the mean over its active skills; others are not computed. Every copy
begins with the trunk's own weights, as from a trained dense trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, unknown
from amodal.core.part import Part
from amodal.nn.encoder import Encoder
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.transformer import Block, Transformer

LAYERS = ("attention", "mlp")
Rules = Mapping[str, Sequence[str]]
"""field -> the skills that are active for it."""


class Copies(nn.ModuleDict):
    """A linear map for each skill.

    Args:
        layer: Is copied.
        names: Of the skills.
        combine: "mean" of the outputs of active copies; "join", outputs side by side; or "split",
            each active copy gets its part of the input, and outputs are averaged.
    """

    def __init__(self, layer: nn.Module, names: Sequence[str], combine: str = "mean"):
        super().__init__({name: copy.deepcopy(layer) for name in names})
        self.combine = combine
        self.active: tuple[str, ...] = ()

    def _chosen(self, names: Sequence[str]) -> list[nn.Linear]:
        return [cast(nn.Linear, self[name]) for name in names]

    def activate(self, names: Sequence[str]) -> None:
        """Choose the copies of the next calls."""
        self.active = tuple(names)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, width in) -> (T, width out), by the active copies."""
        chosen = self._chosen(self.active)
        if self.combine == "split":
            out: Tensor = sum(part(x) for part, x in zip(chosen, x_TD.chunk(len(chosen), 1))) / len(
                chosen
            )
            return out
        if self.combine == "join":
            return torch.cat([part(x_TD) for part in chosen], 1)
        weight, bias = (
            torch.stack([getattr(p, n) for p in chosen]).mean(0) for n in ("weight", "bias")
        )
        return nn.functional.linear(x_TD, weight, bias)  # the mean of linear maps is one

    @torch.no_grad()
    def fixed(self, active: Sequence[str]) -> nn.Linear:
        """One linear map that does what these skills do together."""
        chosen = self._chosen(active)
        weights, biases = (
            [part.weight for part in chosen],
            torch.stack([part.bias for part in chosen]),
        )
        if self.combine == "join":
            weight, bias = torch.cat(weights), biases.flatten()
        else:
            weight, bias = torch.cat(weights, 1) / len(chosen), biases.mean(0)
            weight = weight if self.combine == "split" else torch.stack(weights).mean(0)
        made = nn.Linear(weight.shape[1], weight.shape[0])
        made.weight.copy_(weight)
        made.bias.copy_(bias)
        return made.to(weight)


class Skills(Part):
    """A `BlockHook` that sends the tokens of each field through the copies of its skills.

    Args:
        rules: Field -> its skills. They may be changed at any time, to test a field with others.
        where: "attention" or "mlp", the part of blocks that is copied.

    Raises:
        AmodalError: For another part.
    """

    def __init__(self, rules: Rules, where: str = "attention"):
        super().__init__()
        if where not in LAYERS:
            raise unknown("layer with skills", where, LAYERS)
        self.rules = {field: tuple(skills) for field, skills in rules.items()}
        self.where = where
        self.trunks: list[Transformer] = []  # in a list, so that they are not parts of this one too

    def forward(self, layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        """As a `BlockHook`."""
        sets: dict[tuple[str, ...], list[str]] = {}
        for name in tokens.names:
            sets.setdefault(self.rules[field_of(name)], []).append(name)
        x_TD = tokens.x
        for active, names in sets.items():
            if len(sets) == 1:
                return tokens.with_x(
                    recomputed(self.run_block, tokens.x, tokens, layer, active, block)
                )
            number = torch.tensor([tokens.index(n) for n in names], device=tokens.source.device)
            index = torch.isin(tokens.source, number).nonzero().squeeze(1)
            part = tokens.at(index)
            result = recomputed(self.run_block, part.x, part, layer, active, block)
            x_TD = x_TD.index_copy(0, index, result.to(x_TD.dtype))
        return tokens.with_x(x_TD)

    def run_block(
        self,
        x_TD: Tensor,
        tokens: Tokens,
        layer: int,
        active: tuple[str, ...],
        block: Callable[..., Tokens],
    ) -> Tensor:
        """What a block makes of x with these skills; the tokens say where x is from."""
        for trunk in self.trunks:
            # set in here and not before, so that a second pass of gradient checkpointing has the
            # same skills
            for part in trunk.blocks[layer].modules():
                if isinstance(part, Copies):
                    part.activate(active)
        return block(tokens.with_x(x_TD)).x

    @contextmanager
    def instead(self, rules: Rules) -> Iterator[None]:
        """Inside the `with`, other skills are active for these fields."""
        before, self.rules = self.rules, self.rules | {f: tuple(s) for f, s in rules.items()}
        try:
            yield
        finally:
            self.rules = before

    def alone(self, trunk: Transformer, field: str) -> Transformer:
        """A copy of a trunk as one field goes through it, a plain transformer."""
        made = copy.deepcopy(trunk)
        for name, inner in list(made.named_modules()):
            if isinstance(inner, Copies):
                made.set_submodule(name, inner.fixed(self.rules[field]))
        return made

    def attach(self, encoder: Encoder) -> None:
        """Give every block of the encoder's shared trunk a copy of the layer for each skill.

        Raises:
            AmodalError: For other trunks, experts, unknown fields, and fields without a skill.
        """
        check(encoder, self.rules)
        names = list(dict.fromkeys(s for some in self.rules.values() for s in some))
        for trunk in encoder.trunks.values():
            assert isinstance(trunk, Transformer)
            for block in trunk.blocks:
                assert isinstance(block, Block)
                if self.where == "attention":
                    block.set_submodule("attention.qkv", Copies(block.attention.qkv, names))
                else:
                    block.set_submodule("up", Copies(block.up, names, "join"))
                    block.set_submodule("down", Copies(block.down, names, "split"))
            self.trunks.append(trunk)


def check(encoder: Encoder, rules: Rules) -> None:
    """Raise AmodalError where skills cannot be switched in this encoder by these rules."""
    if encoder.trunk != "shared" or encoder.experts:
        raise AmodalError(
            'skills are switched field by field in one trunk: take trunk="shared" and no experts, '
            f'not trunk="{encoder.trunk}"'
            + (f" with {encoder.experts} experts" if encoder.experts else "")
        )
    for field in rules:
        if field not in encoder.fields:
            raise unknown("field", field, encoder.fields, "It has skills in the options.")
    without = [f for f in encoder.fields if not rules.get(f)]
    if without:
        raise AmodalError(f"every field needs a skill, and {', '.join(without)} has none")
    for name in dict.fromkeys(s for some in rules.values() for s in some):
        if (
            not name or "." in name or hasattr(Copies(nn.Linear(1, 1), ()), name)
        ):  # torch keeps parts as attributes
            raise AmodalError(f"a skill cannot be called {name!r}; take another word")

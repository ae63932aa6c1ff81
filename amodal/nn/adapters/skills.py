"""Skills: copies of a part of every block, of which a rule, and no router, switches on those that a
field needs.

Dai et al. 2022, arXiv:2205.06126 (SkillNet for text, sound, image, video and code), copies of the
projections of attention; Zhang et al. 2022, arXiv:2203.03312 (SkillNet-NLU), copies of the
perceptron. What a block gives is the mean over its active skills; copies that are not active are
not computed. A trunk's own weights become those of every copy, so that skills begin alike, as from
a trained dense trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, unknown
from amodal.core.part import Part
from amodal.nn.encoder import Encoder
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.transformer import Transformer

PLACES = ("attention", "mlp")
Rules = Mapping[str, Sequence[str]]
"""field -> the skills that are active for it."""


class Copies(nn.ModuleDict):
    """A linear map for each skill; what they give is their mean (`mean`); or side by side (`join`);
    or what is side by side goes through one each and is averaged (`split`). active: set for each
    call by `Skills`."""

    active: tuple[str, ...] = ()

    def __init__(self, layer: nn.Linear, names: Sequence[str], how: str = "mean"):
        super().__init__({name: copy.deepcopy(layer) for name in names})
        self.how = how

    def forward(self, x_TD: Tensor) -> Tensor:
        chosen = [self[name] for name in self.active]
        if self.how == "split":
            return sum(part(x) for part, x in zip(chosen, x_TD.chunk(len(chosen), 1))) / len(chosen)
        if self.how == "join":
            return torch.cat([part(x_TD) for part in chosen], 1)
        weight, bias = (
            torch.stack([getattr(p, n) for p in chosen]).mean(0) for n in ("weight", "bias")
        )
        return nn.functional.linear(x_TD, weight, bias)  # the mean of linear maps is one

    @torch.no_grad()
    def fixed(self, active: Sequence[str]) -> nn.Linear:
        """One map that gives what these skills give together."""
        chosen = [self[name] for name in active]
        weights, biases = (
            [part.weight for part in chosen],
            torch.stack([part.bias for part in chosen]),
        )
        if self.how == "join":
            weight, bias = torch.cat(weights), biases.flatten()
        else:
            weight, bias = torch.cat(weights, 1) / len(chosen), biases.mean(0)
            weight = weight if self.how == "split" else torch.stack(weights).mean(0)
        made = nn.Linear(weight.shape[1], weight.shape[0])
        made.weight.copy_(weight)
        made.bias.copy_(bias)
        return made.to(weight)


class Skills(Part):
    """A block hook of an encoder (see `amodal.nn.transformer.BlockHook`): tokens of each field go
    through the blocks with its skills. rules: may be changed at any time, for a test with other
    skills say."""

    def __init__(self, rules: Rules, where: str = "attention"):
        super().__init__()
        if where not in PLACES:
            raise unknown("place of skills", where, PLACES)
        self.rules = {field: tuple(skills) for field, skills in rules.items()}
        self.where = where
        self.trunks: list[Transformer] = []  # in a list, so that they are not parts of this one too

    def forward(self, layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        sets: dict[tuple[str, ...], list[str]] = {}
        for name in tokens.names:
            sets.setdefault(self.rules[field_of(name)], []).append(name)
        x_TD = tokens.x
        for active, names in sets.items():
            if len(sets) == 1:
                return tokens.with_x(recomputed(self.read, tokens.x, tokens, layer, active, block))
            number = torch.tensor([tokens.index(n) for n in names], device=tokens.source.device)
            at = torch.isin(tokens.source, number).nonzero().squeeze(1)
            some = tokens.at(at)
            read = recomputed(self.read, some.x, some, layer, active, block)
            x_TD = x_TD.index_copy(0, at, read.to(x_TD.dtype))
        return tokens.with_x(x_TD)

    def read(
        self,
        x_TD: Tensor,
        tokens: Tokens,
        layer: int,
        active: tuple[str, ...],
        block: Callable[..., Tokens],
    ) -> Tensor:
        """What the block makes of x with these skills; the tokens say where x is from."""
        for trunk in self.trunks:
            for part in trunk.blocks[layer].modules():
                if isinstance(part, Copies):
                    part.active = active
        return block(tokens.with_x(x_TD)).x

    @contextmanager
    def instead(self, rules: Rules) -> Iterator[None]:
        """Inside the `with`, other skills are active for these fields."""
        kept, self.rules = self.rules, self.rules | {f: tuple(s) for f, s in rules.items()}
        try:
            yield
        finally:
            self.rules = kept

    def alone(self, trunk: Transformer, field: str) -> Transformer:
        """The trunk as one field goes through it, a plain transformer: a copy."""
        made = copy.deepcopy(trunk)
        for part in list(made.modules()):
            for name, inner in list(part.named_children()):
                if isinstance(inner, Copies):
                    setattr(part, name, inner.fixed(self.rules[field]))
        return made

    def attach(self, encoder: Encoder) -> None:
        """Give every block of the encoder's shared trunk a copy of its projections, or of its
        perceptron, for each skill.

        Raises AmodalError for other trunks, for fields that there are not or that have no skill,
        and for experts.
        """
        check(encoder, self.rules)
        names = list(dict.fromkeys(s for some in self.rules.values() for s in some))
        for trunk in encoder.trunks.values():
            for block in trunk.blocks:
                if self.where == "attention":
                    block.attention.qkv = Copies(block.attention.qkv, names)
                else:
                    block.up, block.down = (
                        Copies(block.up, names, "join"),
                        Copies(block.down, names, "split"),
                    )
            self.trunks.append(trunk)


def check(encoder: Encoder, rules: Rules) -> None:
    """Raise AmodalError where skills cannot be switched in this encoder by these rules."""
    if encoder.trunk != "shared" or encoder.experts:
        raise AmodalError(
            f'skills are switched field by field in one trunk: take trunk="shared" and no experts, not trunk="{encoder.trunk}"'
            + (f" with {encoder.experts} experts" if encoder.experts else "")
        )
    for field in rules:
        if field not in encoder.fields:
            raise unknown("field", field, encoder.fields, "Skills were given for it.")
    without = [f for f in encoder.fields if not rules.get(f)]
    if without:
        raise AmodalError(f"every field needs a skill, and {', '.join(without)} has none")
    for name in dict.fromkeys(s for some in rules.values() for s in some):
        if (
            not name or "." in name or hasattr(Copies(nn.Linear(1, 1), ()), name)
        ):  # torch keeps parts as attributes
            raise AmodalError(f"a skill cannot be called {name!r}; take another word")

"""The trunks of an encoder: which tokens go through which network together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, unknown, view_of
from amodal.core.embeddings import FUSED
from amodal.core.host import host_copy, on_host, to_device
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.axial import BoxAugmentation, axes_of
from amodal.nn.dilated import Dilated
from amodal.nn.drop_path import side_by_side
from amodal.nn.positions import is_rotary
from amodal.nn.recurrent import Brnn, Recurrent
from amodal.nn.stacked import stack, unstack
from amodal.nn.transformer import BlockHook, Collector, Transformer, size_of

KINDS = ("separate", "shared", "joint")
MIXERS: dict[str, type[nn.Module]] = {
    "attention": Transformer,
    "gru": Recurrent,
    "brnn": Brnn,
    "dilated": Dilated,
}
ALL = "all"
"""The key of the one trunk that all fields use."""

SourceTokens = dict[str, Tokens]
"""Source -> its tokens."""

RouterLogitsOf = dict[tuple[str, int], SourceTokens]
"""(trunk, number of the sparse block) -> source -> tokens whose x are router logits (T, E)."""


class PretrainedTrunk(Protocol):
    """A pretrained model as a joint trunk, such as `backbones.single_stream.SingleStreamTrunk`."""

    def routing(self, width: int) -> TrunkRouting:
        """What sends tokens of this width through it."""
        ...


def kind_of(trunk: str | Part) -> str:
    """The kind of a trunk: a pretrained one is joint."""
    return trunk if isinstance(trunk, str) else "joint"


def routing_of(trunk: str | Part, width: int, mask_rule: str) -> TrunkRouting:
    """What sends tokens through a trunk, of a name or pretrained."""
    if isinstance(trunk, str):
        return TrunkRouting(trunk, width, mask_rule=mask_rule)
    return cast(PretrainedTrunk, trunk).routing(width)


def make_trunks(
    fields: Mapping[str, Modality],
    *,
    kind: str | Part,
    size: str,
    positions: str = "none",
    experts: int = 0,
    mixer: str = "attention",
) -> nn.ModuleDict:
    """The trunks of an encoder, with fresh weights.

    Args:
        fields: Name -> modality, of the fields that need a trunk.
        kind: "separate", a trunk for each field; "shared", one that sees one source at a time;
            "joint", one that sees all sources of a row together; or one that is pretrained.
        size: See `amodal.nn.transformer.size_of`.
        positions: A kind, see `amodal.nn.positions.KINDS`; a trunk turns queries and keys by those
            that are rotary, axial ones along the axes that its fields have.
        experts: Of every second block; 0 for none.
        mixer: "attention"; or "gru", "brnn" or "dilated" (convolutions) for sequences with
            separate trunks.

    Returns:
        Field, or "all" for the one that all fields use -> trunk.

    Raises:
        AmodalError: For unknown names, and for combinations that do not exist.
    """
    if isinstance(kind, Part):
        if is_rotary(positions) or experts or mixer != "attention":
            raise AmodalError(
                "a pretrained trunk has positions and layers of its own: leave positions, experts "
                "and mixer as they are"
            )
        return nn.ModuleDict({ALL: kind})
    if kind not in KINDS:
        raise unknown(
            "trunk", kind, KINDS, "Or transformers:DIR, of a directory with a pretrained ViLT."
        )
    if mixer not in MIXERS:
        raise unknown("mixer", mixer, MIXERS)
    if mixer != "attention" and kind != "separate":
        raise AmodalError(
            f'mixer="{mixer}" reads each field by itself and needs trunk="separate", not {kind!r}'
        )
    shape = size_of(size)
    if experts and (experts < 2 or shape.depth < 2):
        raise AmodalError(
            f"experts are 0, or at least 2 in a trunk of at least 2 blocks, not {experts} in "
            f"{shape.depth}"
        )

    def trunk(key: str) -> nn.Module:
        if mixer != "attention" and fields[key].is_sequence:
            return MIXERS[mixer](shape.width)
        seen = [fields[key]] if kind == "separate" else fields.values()
        return Transformer(
            shape.width,
            shape.depth,
            shape.heads,
            rotary=positions == "rotary",
            axial=axes_of(seen) if BoxAugmentation.of(positions) is not None else (),
            experts=experts,
        )

    return nn.ModuleDict({key: trunk(key) for key in ([ALL] if kind != "separate" else fields)})


class TrunkRouting(nn.Module):
    """Sends tokens through trunks.

    Args:
        kind: As for `make_trunks`.
        width: Of tokens.
        fusion_tokens: Learned tokens that are added to every row of a joint trunk.
        mask_rule: Which sources attend to which: "full", "pure" (Zorro) or "bottleneck" (MBT).

    Raises:
        AmodalError: For fusion tokens without a joint trunk.
    """

    def __init__(self, kind: str, width: int, fusion_tokens: int = 0, mask_rule: str = "full"):
        super().__init__()
        if fusion_tokens and kind != "joint":
            raise AmodalError(
                'fusion tokens need trunk="joint", where sources meet; this encoder has '
                f'trunk="{kind}"'
            )
        self.kind, self.mask_rule = kind, mask_rule
        self.fusion_tokens = (
            nn.Parameter(torch.randn(fusion_tokens, width) * 0.02) if fusion_tokens else None
        )

    @property
    def is_per_source(self) -> bool:
        """Whether sources do not see each other: one pass gives what a pass for each would."""
        return self.kind != "joint" or self.mask_rule == "pure"

    def forward(
        self,
        trunks: nn.ModuleDict,
        tokens: SourceTokens,
        collect: Collector | None = None,
        router_logits: RouterLogitsOf | None = None,
        block_hook: BlockHook | None = None,
        norms: Mapping[str, nn.Module] | None = None,
    ) -> SourceTokens:
        """Send tokens through the trunks. Sources that one trunk serves go through it in one call.

        Args:
            trunks: Of `make_trunks`.
            tokens: Source -> tokens.
            collect: See `Transformer.forward`.
            router_logits: Is filled with (trunk, number of the sparse block) -> source -> tokens
                whose x are router logits (T, E).
            block_hook: Is called around each block of the transformers.
            norms: Key of a trunk -> what stands in place of the norm that ends it.

        Returns:
            Source -> tokens, and `fused` -> the fusion tokens if there are any.
        """
        result: SourceTokens = {}
        hooked: dict[str, Any] = {} if block_hook is None else {"block_hook": block_hook}
        for key, sequences in self._sequences(trunks, tokens).items():
            whole = [self._sequence([tokens[s] for s in names]) for names in sequences]
            if key is None:
                outputs = whole
            else:
                logits: list[Tensor] | None = None if router_logits is None else []
                if norms is not None:
                    hooked["norm"] = norms[key]
                with side_by_side([view_of(names[0]) for names in sequences]):
                    stacked = trunks[key](stack(whole), collect, logits, **hooked)
                outputs = unstack(stacked, whole)
                for number, logits_TE in enumerate(logits or ()):
                    assert router_logits is not None
                    parts = zip(
                        sequences, zip(whole, torch.split(logits_TE, [len(b) for b in whole]))
                    )
                    router_logits[key, number] = {
                        s: _only(b.with_x(x), s) for names, (b, x) in parts for s in names
                    }
            for names, part in zip(sequences, outputs):
                single = len(names) == 1 and self.fusion_tokens is None
                result.update({s: part if single else _only(part, s) for s in names})
                if self.fusion_tokens is not None and FUSED not in result:
                    result[FUSED] = _only(part, FUSED)
        return {s: result[s] for s in [*tokens, *([FUSED] if FUSED in result else [])]}

    def _sequences(
        self, trunks: nn.ModuleDict, tokens: SourceTokens
    ) -> dict[str | None, list[list[str]]]:
        """Trunk -> lists of sources that form a sequence; None for fields that need no trunk."""
        if self.kind == "joint":
            views: dict[int, list[str]] = {}
            for source in tokens:
                views.setdefault(view_of(source), []).append(source)
            # a sequence for each view number: image:1 sees text:1, and not the other crop image:2
            return {ALL: list(views.values())}
        served: dict[str | None, list[list[str]]] = {}
        for source in tokens:
            key = ALL if self.kind == "shared" else field_of(source)
            served.setdefault(key if key in trunks else None, []).append([source])
        return served

    def _sequence(self, parts: Sequence[Tokens]) -> Tokens:
        if self.fusion_tokens is None:
            return parts[0] if len(parts) == 1 else Tokens.join(parts)
        size, counts = parts[0].size, torch.stack([host_copy(b.lengths()) for b in parts])
        rows = to_device(counts.sum(0).nonzero().squeeze(1), parts[0].row.device)
        x_TD = self.fusion_tokens.repeat(len(rows), 1).to(parts[0].x.dtype)
        position = parts[0].position.new_zeros(len(x_TD), parts[0].position.shape[1])
        count = len(self.fusion_tokens)
        lengths = on_host(lambda r: torch.full_like(r, count), rows)
        return Tokens.join([*parts, Tokens.of(x_TD, rows, lengths, position, FUSED, size)])


def _only(tokens: Tokens, source: str) -> Tokens:
    """The tokens of one source, under its name."""
    return tokens.only(source).renamed(source)

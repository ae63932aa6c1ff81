"""What a method may add to an encoder before training; a saved encoder has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from torch import nn

from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.core.part import Part
from amodal.nn.attention.bias import is_bias, place_bias, refuse_drawn_patches
from amodal.nn.attention.masks import rule
from amodal.nn.attention.relative import RelativeBias, relative_bias
from amodal.nn.axial import axes_of
from amodal.nn.fusion.combiner import Combiner
from amodal.nn.heads.linear import LinearHead, MlpHead, keep_space
from amodal.nn.layer_scale import scale_updates
from amodal.nn.pooling import ClsPool, RegisterPool
from amodal.nn.positions import is_rotary, refuse_tables
from amodal.nn.transformer import ExtraBlocks, Transformer
from amodal.nn.trunks import ALL, TrunkRouting, routing_of

if TYPE_CHECKING:
    from amodal.nn.encoder import Encoder

MakeHead = Callable[[int, int], Part]
"""(width in, width out) -> a head."""
SIMILARITIES = ("cosine", "abs_cosine")


@runtime_checkable
class Attaches(Protocol):
    """A block hook that also changes the trunks, such as skills."""

    def attach(self, encoder: Encoder) -> None:
        """Change the trunks of the encoder."""
        ...


class Extensions:
    """Methods of an encoder that change its parts. Most return the encoder."""

    heads_width = 0
    """Dimensions of the space of the heads, 0 without heads."""
    heads: nn.ModuleDict | None
    routing: TrunkRouting
    similarity: str
    multi_vector: Part | None
    combiner: Part | None
    block_hook: nn.Module | None
    relative: RelativeBias | None

    def check_pools(self) -> None:
        """Check that no pool reads a token that nothing has changed.

        Raises:
            AmodalError: For a class token beside the tokens of a backbone, which it never meets: it
                would be the same for every value.
        """
        encoder = cast("Encoder", self)
        for field, pool in encoder.pools.items():
            alone = field in encoder.fields and encoder.contextual(field)
            if isinstance(pool, ClsPool) and alone and field not in encoder.extra_blocks:
                raise AmodalError(
                    f'pool="cls" reads a class token, which the backbone of {field!r} never sees, '
                    'so that all values would have one vector; take pool="mean" or "attention"'
                )

    def set_depths(self, depths: Mapping[str, int]) -> Encoder:
        """Let the towers of some fields have fewer blocks than the size says.

        Args:
            depths: Field -> blocks.

        Raises:
            AmodalError: For a trunk that other fields use too, one without blocks, and more blocks
                than there are.
        """
        encoder = cast("Encoder", self)
        for field, depth in depths.items():
            self._needs_towers("shortened")
            trunk = encoder.trunks[field] if field in encoder.trunks else None
            most = len(trunk.blocks) if isinstance(trunk, Transformer) else 0
            if not isinstance(trunk, Transformer) or not 1 <= depth <= most:
                raise AmodalError(
                    f"the tower of {field!r} has {most or 'no'} blocks, and is to have {depth}: "
                    "take 1 to as many as there are, or a larger size"
                )
            trunk.shorten(depth)
        if depths:
            encoder.describe_as(depths={**(encoder.recorded_args.get("depths") or {}), **depths})
        return encoder

    def set_bias(self) -> None:
        """Give all blocks the bias of attention that the kind of positions is, if it is one.

        Raises:
            AmodalError: For trunks without attention, for pretrained ones, and for fields whose
                patches have another side in each step. Also for a kind that is a table, and fields
                in space.
        """
        encoder = cast("Encoder", self)
        refuse_tables(encoder.positions, encoder.fields)
        if self.relative is None:
            self.relative = relative_bias(encoder.positions, encoder.num_heads)
        bias = place_bias(
            encoder.positions,
            encoder.fields,
            encoder.num_heads,
            cast(Any, encoder.pools),
            self.relative,
        )
        if bias is None:
            return
        refuse_drawn_patches(encoder.fields, f"positions={encoder.positions!r}")
        for name, trunk in [*encoder.trunks.items(), *encoder.extra_blocks.items()]:
            if not isinstance(trunk, Transformer):
                raise AmodalError(
                    f"positions={encoder.positions!r} are a bias of attention, and the trunk of "
                    f'{name!r} is a {type(trunk).__name__}: take mixer="attention" and a trunk of '
                    "this library, or other positions"
                )
            trunk.set_bias(bias)

    def set_layer_scale(self, value: float) -> Encoder:
        """Multiply what the blocks of all trunks add by learned factors.

        Where there are factors, as of a run that this one starts from, they stay.

        Args:
            value: Which they begin at; 0 for no factors.

        Raises:
            AmodalError: For trunks without such blocks.
        """
        encoder = cast("Encoder", self)
        if value:
            for trunk in encoder.trunks.values():
                scale_updates(trunk, value)
            encoder.describe_as(layer_scale=value)
        return encoder

    def align(
        self,
        width: int,
        hidden: int = 0,
        fused: bool = False,
        bias: bool = False,
        head: MakeHead | None = None,
        similarity: str = "cosine",
        multi_vector: Part | None = None,
    ) -> Encoder:
        """Add a head for each field into one space, in which sources are compared.

        The linear head of a field whose backbone brings such a space along begins as the identity.

        Args:
            width: Dimensions of the space.
            hidden: Width of a hidden layer of the heads; 0 for linear maps.
            fused: Also add a head for the fused vectors, if the method trains them.
            bias: Of the last layer, for spaces whose zero has a meaning.
            head: Makes another kind of head.
            similarity, multi_vector: See `Encoder`.

        Raises:
            AmodalError: For an unknown similarity, for options that `head` does not have, and for
                a width below that of the space of a backbone.
        """
        encoder = cast("Encoder", self)
        if head and (hidden or bias):
            raise AmodalError("a head of another kind has no hidden layer or bias to choose here")
        if similarity not in SIMILARITIES:
            raise unknown("similarity", similarity, SIMILARITIES)
        self.similarity, self.multi_vector = similarity, multi_vector
        encoder.describe_as(similarity=similarity, multi_vector=multi_vector)

        def made(name: str) -> Part:
            if head:
                return head(encoder.width, width)
            if hidden:
                return MlpHead(encoder.width, width, hidden, bias)
            linear = LinearHead(encoder.width, width, bias)
            if space := encoder.space_of(name):
                keep_space(linear, name, space)
            return linear

        return self.set_heads(
            {name: made(name) for name in encoder.pools if fused or name != FUSED}, width
        )

    def set_heads(self, heads: Mapping[str, Part], width: int) -> Encoder:
        """Replace the heads.

        Args:
            heads: Field -> head.
            width: Dimensions of the space that they map into.
        """
        encoder = cast("Encoder", self)
        self.heads, self.heads_width = nn.ModuleDict(heads), width
        encoder.describe_as(heads=dict(heads), heads_width=width)
        return encoder

    def fuse(self, tokens: int = 8, mask_rule: str = "pure") -> Encoder:
        """Add fusion tokens to every row of a joint trunk.

        Args:
            tokens: How many.
            mask_rule: "full", "pure" (Zorro) or "bottleneck" (MBT).

        Raises:
            AmodalError: For trunks that are not of this library, and other than joint ones.
        """
        encoder = cast("Encoder", self)
        trunk = encoder.trunks[ALL] if ALL in encoder.trunks else None
        if trunk is not None and not isinstance(trunk, Transformer):
            raise AmodalError(
                "fusion tokens and mask rules are of trunks of this library, and this one is a "
                "pretrained model; leave --trunk transformers:DIR out"
            )
        self.routing = TrunkRouting(encoder.trunk, encoder.width, tokens, mask_rule)
        cast(Transformer, encoder.trunks[ALL]).set_mask_rule(rule(mask_rule))
        encoder.describe_as(fusion_tokens=tokens, mask_rule=mask_rule)
        return encoder

    def set_trunk(self, trunk: Part) -> Encoder:
        """Send the tokens of all fields through another trunk, in place of a joint one.

        Args:
            trunk: With `routing`, see `amodal.nn.trunks.PretrainedTrunk`.

        Raises:
            AmodalError: For an encoder whose fields do not meet in its trunk, for fusion tokens and
                experts, and for positions and factors that are of the trunk that goes.
        """
        encoder = cast("Encoder", self)
        if is_bias(encoder.positions) or is_rotary(encoder.positions):
            raise AmodalError(
                f"positions={encoder.positions!r} are of attention in a trunk that another one "
                "replaces here: take ground, sincos, learned or none"
            )
        if encoder.recorded_args.get("layer_scale"):
            raise AmodalError("the trunk that another one replaces here has a layer scale")
        if encoder.trunk != "joint" or encoder.experts or self.routing.fusion_tokens is not None:
            raise AmodalError(
                'this trunk stands in place of a joint one, trunk="joint" without experts and '
                f"fusion tokens; this encoder has {encoder.trunk!r} and {encoder.experts} experts"
            )
        encoder.trunks[ALL] = trunk  # a joint encoder has no other
        self.routing = routing_of(trunk, encoder.width, "full")
        encoder.describe_as(trunk=trunk)
        return encoder

    def compose(self, change: str, project: int, hidden: int) -> Encoder:
        """Add a combiner of a reference and a change to it, for composed queries. After `align`.

        Args:
            change: The field that changes are of.
            project, hidden: See `amodal.nn.fusion.combiner.Combiner`.
        """
        encoder = cast("Encoder", self)
        self.combiner = Combiner(self.heads_width, project, hidden, change=change)
        encoder.describe_as(combiner=self.combiner)
        return encoder

    def extend(self, field: str, depth: int) -> Encoder:
        """Put `depth` more blocks on top of a field's tower, locked or not, or of its backbone."""
        encoder = cast("Encoder", self)
        self._needs_towers("extended")
        encoder.extra_blocks[field] = ExtraBlocks(
            encoder.width,
            depth,
            encoder.num_heads,
            rotary=encoder.positions == "rotary",
            axial=axes_of([encoder.fields[field]]) if encoder.box is not None else (),
        )
        self.set_bias()
        encoder.describe_as(extra_blocks=dict(encoder.extra_blocks))
        return encoder

    def set_pool(self, field: str, pool: Part) -> Encoder:
        """Pool a field in another way."""
        encoder = cast("Encoder", self)
        encoder.pools[field] = pool
        encoder.describe_as(pools={**encoder.recorded_args.get("pools", {}), field: pool})
        return encoder

    def set_registers(self, count: int) -> Encoder:
        """Put registers beside the class tokens of all fields; see `RegisterPool`.

        Raises:
            AmodalError: For fields without a class token.
        """
        encoder = cast("Encoder", self)
        for field in encoder.fields:
            pool = encoder.pools[field]
            if not isinstance(pool, ClsPool):
                raise AmodalError(
                    f'registers stand beside a class token, and {field!r} has none: take pool="cls"'
                )
            if not isinstance(pool, RegisterPool) or len(pool.registers) != count:
                self.set_pool(field, RegisterPool(encoder.width, count).beside(pool))
        return encoder

    def set_block_hook(self, hook: Part | None) -> Encoder:
        """Call a part around each block of the trunks; None removes it."""
        encoder = cast("Encoder", self)
        if isinstance(hook, Attaches):
            hook.attach(encoder)
        self.block_hook = hook
        encoder.describe_as(block_hook=hook)
        return encoder

    @contextmanager
    def use_block_hook(self, hook: Part | None) -> Iterator[None]:
        """Call another block hook, or none, inside the `with`; the description stays."""
        before, self.block_hook = self.block_hook, hook
        try:
            yield
        finally:
            self.block_hook = before

    def set_backbone(self, field: str, backbone: Part) -> Encoder:
        """Read a field by a part whose tokens have seen each other, in place of its tower.

        The offset of the field is zero from then on, so that the tokens are what the part gives.

        Raises:
            AmodalError: For a trunk that other fields use too.
        """
        encoder = cast("Encoder", self)
        self._needs_towers("replaced")
        encoder.tokenizers[field] = backbone
        if field in encoder.trunks:
            encoder.trunks.pop(field)
        encoder.field_token[field].requires_grad_(False).zero_()
        if field in encoder.group_token:
            encoder.group_token.pop(field)
        backbones = {**encoder.recorded_args.get("backbones", {}), field: backbone}
        encoder.describe_as(**self._described_without(field, "depths") | {"backbones": backbones})
        return encoder

    def drop(self, field: str) -> None:
        """Remove a field's tower, before `align`: a method reads the field by another one's."""
        encoder = cast("Encoder", self)
        for parts in (
            encoder.fields,
            encoder.tokenizers,
            encoder.field_token,
            encoder.group_token,
            encoder.trunks,
            encoder.pools,
            encoder.extra_blocks,
        ):
            if field in parts:
                cast(Any, parts).pop(field)
        left = self._described_without(field, "backbones", "depths", "pools", "extra_blocks")
        encoder.describe_as(**left | {"fields": dict(encoder.fields)})

    def _described_without(self, field: str, *names: str) -> dict[str, Any]:
        """Recorded arguments that are by field, without one of the fields."""
        recorded = cast("Encoder", self).recorded_args
        return {
            name: {f: value for f, value in recorded[name].items() if f != field}
            for name in names
            if recorded.get(name)
        }

    def lock(self, field: str) -> None:
        """Freeze a field's tower.

        Of a pretrained backbone the map from its width to the encoder's still learns: it begins
        random, unless the backbone brings a space along, which it leaves as it is.

        Raises:
            AmodalError: For a trunk that other fields use too.
        """
        encoder = cast("Encoder", self)
        self._needs_towers("locked")
        for parts in (encoder.tokenizers, encoder.trunks, encoder.pools):
            if field in parts:
                # also of BatchNorm, whose statistics stay where no parameter learns
                parts[field].requires_grad_(False)
        for offsets in (encoder.field_token, encoder.group_token):
            if field in offsets:
                offsets[field].requires_grad_(False)
        if encoder.contextual(field):
            learns = not encoder.space_of(field)
            cast(Any, encoder.tokenizers[field]).project.requires_grad_(learns)

    def _needs_towers(self, verb: str) -> None:
        trunk = cast("Encoder", self).trunk
        if trunk != "separate":
            raise AmodalError(
                f'one tower can be {verb} with trunk="separate", where it shares nothing; this '
                f"encoder has {trunk!r}"
            )

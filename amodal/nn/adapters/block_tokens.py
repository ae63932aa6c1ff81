"""Tokens that are inserted between the blocks of a trunk: which encoders take them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from amodal.core import AmodalError
from amodal.nn.backbones.single_stream import SingleStreamTrunk
from amodal.nn.causal_fields import CausalFields
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import Transformer


def require_no_hook(encoder: Encoder) -> Encoder:
    """The encoder, which must not have a block hook yet, else AmodalError."""
    if isinstance(encoder.block_hook, CausalFields):
        raise AmodalError(
            f"{', '.join(sorted(encoder.block_hook.fields))} is read in a causal order by this "
            "encoder, which learned tokens between its blocks would undo; tune it in another way "
            "(full, lora, bias or head), or begin with another run"
        )
    if encoder.block_hook is not None:
        raise AmodalError(
            "learned tokens or skills stand between the blocks of this encoder already "
            f"({type(encoder.block_hook).__name__}), and new "
            "ones would take their place; begin with the run that it was adapted from"
        )
    return encoder


def depth_of(encoder: Encoder, names: Collection[str] | None = None) -> int:
    """How many blocks the trunks of an encoder have.

    Args:
        encoder: The encoder.
        names: Of the fields that must be read by trunks; all unless given.

    Raises:
        AmodalError: If a field is not read by a transformer of this library.
    """
    fields = (
        []
        if encoder.trunk != "separate"
        else [f for f in names or encoder.fields if f not in encoder.trunks]
    )
    takes_tokens = (Transformer, SingleStreamTrunk)
    fields += [f for f, trunk in encoder.trunks.items() if not isinstance(trunk, takes_tokens)]
    if fields:
        raise AmodalError(
            "tokens are put between the blocks of this library's own transformers, and "
            f"{', '.join(fields)} is read by another network. Leave the backbone or mixer of "
            f"{', '.join(fields)} out (--backbone FIELD=tokens, where the run is pretrained), or "
            "take a method without such tokens (finetune, clip, lit)"
        )
    trunk = next(iter(encoder.trunks.values()))
    assert isinstance(trunk, takes_tokens)
    return len(trunk.blocks)


@contextmanager
def hook_disabled(encoder: Encoder) -> Iterator[Encoder]:
    """The encoder without its block hook, inside the `with`."""
    with encoder.use_block_hook(None):
        yield encoder

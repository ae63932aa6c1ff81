"""Pages that learn from one modality: which fields those are, and what becomes of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from amodal.core import AmodalError, AmodalWarning
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder


def only_fields(
    encoder: Encoder, fits: Callable[[Modality], bool], *, method: str, kind: str, instead: str
) -> list[str]:
    """The fields that a method learns from. The parts of all others are frozen.

    Frozen fields can still be embedded, as their backbones or fresh weights embed them. A warning
    names those with fresh weights.

    Args:
        encoder: Changed in place.
        fits: Whether the method learns from a modality.
        method: Its name, for messages.
        kind: What it learns from, in the plural, for messages.
        instead: Methods for other data, for messages.

    Raises:
        AmodalError: If there is no such field.
    """
    own = [f for f, modality in encoder.fields.items() if fits(modality)]
    if not own:
        found = ", ".join(f"{f} ({m.kind})" for f, m in encoder.fields.items())
        raise AmodalError(
            f"{method} learns from {kind}, and there is only {found}. Take {instead}, or give "
            f"records with {kind}."
        )
    others = [f for f in encoder.fields if f not in own]
    for field in others:
        _freeze(encoder, field)
    if untrained := [f for f in others if not encoder.contextual(f)]:
        warnings.warn(
            f"{method} learns from {kind}: {', '.join(own)}. The vectors of "
            f"{', '.join(untrained)} stay those of fresh weights; leave such fields out with "
            "--fields, or give them a pretrained backbone",
            AmodalWarning,
            stacklevel=3,
        )
    return own


def _freeze(encoder: Encoder, field: str) -> None:
    # a part that no loss reaches has no gradient, but weight decay would still shrink it, and
    # processes would wait for each other's
    encoder.field_token[field].requires_grad_(False)
    for parts in (encoder.tokenizers, encoder.trunks, encoder.pools, encoder.extra_blocks):
        if field in parts:
            parts[field].requires_grad_(False)

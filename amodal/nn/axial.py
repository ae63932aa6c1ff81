"""Positions `axial`: rotary, by where a token is in its crop, along the axes that its field has.

Axial RoPE (Heo et al. 2024, arXiv:2403.13298) as of DINOv3 (Siméoni et al. 2025, arXiv:2508.10104,
section 3.2): each axis of a crop goes from -1 to 1, whatever the number of its patches, so that a
model reads crops of other sizes. In training the box of a crop is moved, stretched and scaled at
random, so that it does not rely on one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from amodal.core import POSITION_DIMS, AmodalError, Tokens, name_code, unknown
from amodal.masking.hashing import uniform
from amodal.nn.positions import AXIAL, Rotary

CROP = tuple(f"crop{axis}" for axis in range(POSITION_DIMS))
"""The attributes of where a token is along each axis of its crop, from -1 to 1."""


@dataclass(frozen=True)
class BoxAugmentation:
    """How the box of a crop changes in training: c -> (c + shift) * jitter * rescale.

    Attributes:
        shift: Of each axis by itself, evenly from -shift to shift.
        jitter: A factor of each axis by itself, from 1 / jitter to jitter, evenly in its logarithm.
        rescale: A factor of all axes, in the same way (2 in DINOv3).

    Raises:
        AmodalError: For a number out of range.
    """

    shift: float = 0.0
    jitter: float = 1.0
    rescale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < math.inf:
            raise AmodalError(f"the shift of axial positions is 0 or more, not {self.shift}")
        for name in ("jitter", "rescale"):
            value = getattr(self, name)
            if not 1 <= value < math.inf:
                raise AmodalError(
                    f"the {name} of axial positions is a largest factor, 1 (none) or more, not "
                    f"{value}"
                )

    @staticmethod
    def of(kind: str) -> BoxAugmentation | None:
        """What a kind of positions says: `axial`, or `axial:rescale=2,shift=0.1`; None for others.

        Raises:
            AmodalError: For an unknown option, and for what is no number.
        """
        name, _, options = kind.partition(":")
        if name != AXIAL:
            return None
        known = [f.name for f in fields(BoxAugmentation)]
        values: dict[str, float] = {}
        for part in filter(None, options.split(",")):
            key, _, value = part.partition("=")
            if key not in known:
                raise unknown("option of axial positions", key, known)
            try:
                values[key] = float(value)
            except ValueError:
                raise AmodalError(
                    f"positions={kind!r}: {key} is a number, as in axial:{key}=2, not {value!r}"
                ) from None
        return BoxAugmentation(**values)

    def __call__(self, c_TA: Tensor, axes: Sequence[int], source: str, seeds_T: Tensor) -> Tensor:
        """Crop coordinates in the changed box of their row and source.

        Args:
            c_TA: Along each of `axes`.
            axes: Numbers of axes of positions.
            source: Of the tokens; two views of a row have draws of their own.
            seeds_T: int64, the seed of each token's row.
        """
        code = name_code(f"box of {source}")

        def drawn(number: int) -> Tensor:
            """(T,) evenly from -1 to 1."""
            return 2 * uniform(seeds_T, code, number).to(c_TA.dtype) - 1

        shift_TA = torch.stack([self.shift * drawn(axis) for axis in axes], -1)
        jitter_TA = torch.stack([self.jitter ** drawn(POSITION_DIMS + axis) for axis in axes], -1)
        rescale_T = self.rescale ** drawn(2 * POSITION_DIMS)
        return (c_TA + shift_TA) * jitter_TA * rescale_T.unsqueeze(-1)


def axes_of(modalities: Iterable[Any]) -> tuple[int, ...]:
    """The axes along which tokens of some modalities lie, in order.

    Args:
        modalities: Or anything that has a tokenizer; one that names no axes may have all.
    """
    every = range(POSITION_DIMS)
    return tuple(sorted({a for m in modalities for a in getattr(m, "axis_names", every)}))


def crop_coordinates(position_TA: Tensor, row_T: Tensor, size: int) -> Tensor:
    """Where tokens are in the crop that they are all of, from -1 to 1 along each axis.

        c_i = 2 (i + 1/2) / k - 1 of k evenly spaced tokens along an axis, i = 0 … k - 1

    Args:
        position_TA: Of all tokens of one source, in any unit.
        row_T: (T,) int64.
        size: B, rows of the batch.

    Returns:
        (T, A), 0 along an axis on which a crop has one place.
    """
    axes = position_TA.shape[1]
    low, high = (
        position_TA.new_zeros(size, axes).scatter_reduce(
            0, row_T.unsqueeze(1).expand(-1, axes), position_TA, how, include_self=False
        )
        for how in ("amin", "amax")
    )
    count = torch.stack([places(x_T, row_T, size) for x_T in position_TA.unbind(1)], 1)
    # the outermost tokens are half a token's width inside the box
    half = (high - low) / 2
    scale = torch.where(half > 0, (1 - 1 / count.clamp(min=1)) / half, 0.0)
    return (position_TA - ((low + high) / 2)[row_T]) * scale[row_T]


def places(x_T: Tensor, row_T: Tensor, size: int) -> Tensor:
    """(B,) how many different values each row has."""
    order = torch.argsort(x_T)
    order = order[torch.argsort(row_T[order], stable=True)]
    x_T, row_T = x_T[order], row_T[order]
    is_first = torch.ones_like(x_T)
    is_first[1:] = ((x_T[1:] != x_T[:-1]) | (row_T[1:] != row_T[:-1])).to(x_T.dtype)
    return x_T.new_zeros(size).index_add(0, row_T, is_first)


def with_crop_coordinates(
    tokens: Tokens, axes: Sequence[int], box: BoxAugmentation | None, seeds_B: Tensor
) -> Tokens:
    """The tokens with the attributes `CROP` of their field's axes.

    Args:
        tokens: All those of one source, before any is hidden.
        axes: Of its field.
        box: How boxes change; None leaves them.
        seeds_B: (B,) int64, of the rows.
    """
    c_TA = crop_coordinates(tokens.position[:, list(axes)], tokens.row, tokens.size)
    if box is not None:
        c_TA = box(c_TA, axes, tokens.names[0], seeds_B.to(tokens.row.device)[tokens.row])
    crop = {CROP[axis]: c_T for axis, c_T in zip(axes, c_TA.unbind(1))}
    return replace(tokens, attributes={**tokens.attributes, **crop})


def axial_rotary(
    attributes: Mapping[str, Tensor],
    enter: Callable[[Tensor], Tensor],
    axes: Sequence[int],
    head_width: int,
) -> Rotary:
    """Rotates by crop coordinates; what has none, such as a class token, is not turned.

        angle of band b of B along an axis: 2 pi c / 100^(b / B)

    Args:
        attributes: Of tokens.
        enter: (T, ...) in their order -> in the order of queries and keys.
        axes: Of the trunk. Each has an equal share of the bands.
        head_width: d of a head.

    Raises:
        AmodalError: For tokens without any crop coordinate.
    """
    there = [attributes[CROP[axis]] for axis in axes if CROP[axis] in attributes]
    if not there:
        raise AmodalError(
            "positions=axial are those of a token in its crop, which Encoder.tokenize and "
            "Encoder.patchify say; these tokens come from elsewhere: take other positions"
        )
    none = torch.zeros_like(there[0])
    c_TA = torch.stack([attributes.get(CROP[axis], none) for axis in axes], -1)
    return Rotary(2 * math.pi * enter(c_TA).nan_to_num(nan=0.0), head_width)

"""AutoAugment: pairs of changes to a picture that were found by a search.

Cubuk et al., CVPR 2019, arXiv:1805.09501: the 25 pairs of changes for ImageNet, their probabilities
and magnitudes, as torchvision has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.v2 import functional as F

from amodal.core import AmodalError

LAST = 9
"""The highest of ten levels."""
ROTATION, SHEAR, COLOUR, BITS = 30.0, 0.3, 0.9, 4
"""At the last level: degrees, share of a side, change of the factor 1, bits that are lost."""


def auto_augment(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the 25 policies, drawn at random.

    Args:
        value: (C, H, W) of 1 or 3 channels. Floats may be in any unit, so that black and white are
            the least and the largest value of the picture.
        rng: The only source of randomness.

    Raises:
        AmodalError: For another number of channels.
    """
    if len(value) not in (1, 3):
        raise AmodalError(
            f"the view autoaugment changes pictures with 1 or 3 channels, not {len(value)}; take "
            "the view strong"
        )
    if value.dtype != np.uint8:
        low, span = value.min(), max(float(np.ptp(value)), 1e-12)
        as_bytes = auto_augment(np.rint((value - low) / span * 255).astype(np.uint8), rng)
        scaled: np.ndarray = (as_bytes / 255 * span + low).astype(value.dtype)
        return scaled
    # torchvision's transform draws from torch's generator, which is not that of the record
    image = torch.from_numpy(np.ascontiguousarray(value))
    for name, probability, level in policies()[rng.integers(len(policies()))]:
        happens, sign = rng.random() < probability, rng.choice((-1.0, 1.0))
        if happens:
            image = CHANGES[name](image, (level or 0) / LAST, float(sign))
    out: np.ndarray = image.contiguous().numpy()
    return out


@functools.cache
def policies() -> tuple[tuple[tuple[str, float, int | None], ...], ...]:
    """Pairs of (change, probability, level of 0 … 9)."""
    return tuple(AutoAugment(AutoAugmentPolicy.IMAGENET).policies)


def rotated(image: Tensor, share: float, sign: float) -> Tensor:
    """Turned about its middle."""
    out: Tensor = F.rotate(image, sign * share * ROTATION, InterpolationMode.NEAREST)
    return out


def sheared(image: Tensor, share: float, sign: float) -> Tensor:
    """Sheared along its rows, the upper left corner in its place."""
    degrees = float(np.degrees(np.arctan(sign * share * SHEAR)))
    out: Tensor = F.affine(image, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0.0, 0.0])
    return out


def posterized(image: Tensor, share: float, _: float) -> Tensor:
    """With fewer bits."""
    out: Tensor = F.posterize(image, 8 - round(share * BITS))
    return out


def solarized(image: Tensor, share: float, _: float) -> Tensor:
    """With values from a threshold on inverted."""
    out: Tensor = F.solarize(image, 255 * (1 - share))
    return out


def factor(share: float, sign: float) -> float:
    """Of a change of colours, 1 for none."""
    return 1 + sign * share * COLOUR


CHANGES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "AutoContrast": lambda image, share, sign: F.autocontrast(image),
    "Color": lambda image, share, sign: F.adjust_saturation(image, factor(share, sign)),
    "Contrast": lambda image, share, sign: F.adjust_contrast(image, factor(share, sign)),
    "Equalize": lambda image, share, sign: F.equalize(image),
    "Invert": lambda image, share, sign: F.invert(image),
    "Posterize": posterized,
    "Rotate": rotated,
    "Sharpness": lambda image, share, sign: F.adjust_sharpness(image, factor(share, sign)),
    "ShearX": sheared,
    "Solarize": solarized,
}
"""Name -> a picture of bytes (C, H, W), magnitude (0 … 1) and sign -> the picture changed."""

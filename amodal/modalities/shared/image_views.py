"""What each view does to a picture, and its colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from amodal.modalities.shared import image_maps as _maps


@dataclass(frozen=True)
class Jitter:
    """Ranges of colour changes, in the words of torchvision.

    Attributes:
        brightness, contrast, saturation: largest change of the factor 1.
        hue: largest turn, as a share of the circle.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1


@dataclass(frozen=True)
class ImageView:
    """An augmentation.

    Attributes:
        area: smallest and largest share of the area that a crop keeps.
        blur: how often it is blurred.
        jitter: of the colours; None leaves them.
        solarize: how often bright values are inverted.
        side: of the result, as a share of the picture's; a small part has half of it.
        aspect: smallest and largest ratio of a crop's height to its width.
        flips: whether half of the crops are mirrored, if a mirror image means the same.
        is_clean: colours, blur and solarization are drawn and left out, so that a view shows the
            crop of another one as it is.
    """

    area: tuple[float, float]
    blur: float = 0.0
    jitter: Jitter | None = None
    solarize: float = 0.0
    side: float = 1.0
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flips: bool = True
    is_clean: bool = False


SIMCLR, BYOL = Jitter(), Jitter(saturation=0.2)
VIEWS = {
    "weak": ImageView((0.6, 1.0)),
    "crop": ImageView((0.2, 1.0)),  # MAE's
    "i_jepa": ImageView((0.3, 1.0), flips=False),  # of its authors' configurations
    "strong": ImageView((0.2, 1.0), blur=0.5, jitter=SIMCLR),
    "local": ImageView((0.05, 0.4), blur=0.5, jitter=SIMCLR, side=0.5),
    # SLIP's, in the authors' code: for language, and for self-supervision
    "half": ImageView((0.5, 1.0)),
    "simclr": ImageView((0.08, 1.0), blur=0.5, jitter=SIMCLR),
    "unblurred": ImageView((0.08, 1.0), jitter=SIMCLR),  # of small pictures
    "amdim": ImageView((0.3, 1.0), jitter=Jitter(hue=0.2)),  # of its authors' code, from 64 pixels
    # of AlexNet: 227 of 256 pixels on each side
    "alexnet": ImageView(((227 / 256) ** 2,) * 2, aspect=(1.0, 1.0)),
    # BYOL's two views, table 6 of arXiv:2006.07733
    "blurred": ImageView((0.08, 1.0), blur=1.0, jitter=BYOL),
    "solarized": ImageView((0.08, 1.0), blur=0.1, jitter=BYOL, solarize=0.2),
    # the large and the small view of LeJEPA, in the repository of arXiv:2511.08544
    "global": ImageView((0.3, 1.0), blur=0.5, jitter=BYOL, solarize=0.2),
    "local_solarized": ImageView((0.05, 0.3), blur=0.5, jitter=BYOL, solarize=0.2, side=0.5),
    # two large views and the small one of iBOT with crops of two sizes, in its repository
    "ibot": ImageView((0.25, 1.0), blur=1.0, jitter=BYOL),
    "ibot_solarized": ImageView((0.25, 1.0), blur=0.1, jitter=BYOL, solarize=0.2),
    "ibot_local": ImageView((0.05, 0.25), blur=0.5, jitter=BYOL, side=0.5),
    # the same of DINOv2, in its authors' configurations
    "dinov2": ImageView((0.32, 1.0), blur=1.0, jitter=BYOL),
    "dinov2_solarized": ImageView((0.32, 1.0), blur=0.1, jitter=BYOL, solarize=0.2),
    "dinov2_local": ImageView((0.05, 0.32), blur=0.5, jitter=BYOL, side=0.5),
    # the same of DINOv3, which mirrors nothing
    "dinov3": ImageView((0.32, 1.0), blur=1.0, jitter=BYOL, flips=False),
    "dinov3_solarized": ImageView((0.32, 1.0), blur=0.1, jitter=BYOL, solarize=0.2, flips=False),
    "dinov3_local": ImageView((0.05, 0.32), blur=0.5, jitter=BYOL, side=0.5, flips=False),
}
VIEWS |= {
    # at half the side, beside the same two crops for a Gram teacher at the whole side
    "dinov3_half": replace(VIEWS["dinov3"], side=0.5),
    "dinov3_half_solarized": replace(VIEWS["dinov3_solarized"], side=0.5),
    "dinov3_quarter": replace(VIEWS["dinov3_local"], side=0.25),
    "dinov3_gram": replace(VIEWS["dinov3"], is_clean=True),
    "dinov3_gram_solarized": replace(VIEWS["dinov3_solarized"], is_clean=True),
}
AUTO = "autoaugment"
"""The view of `image_policies`, which is no crop."""
SHEET = "sheet"
"""The view of `sheet_views`, of dark print on white: UCASR's of scores."""
JITTER_RATE, GREY_RATE = 0.8, 0.2
"""How often colours are changed and taken away, in SimCLR and BYOL."""


def jitter_colour(planes: np.ndarray, jitter: Jitter, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and, for three channels, saturation, hue and greying.

    Chen et al., SimCLR, 2020, appendix A, as one map across channels and one change of contrast.

    Args:
        planes: (C, H, W) float32.
        jitter: how much.
        rng: the only source of randomness.
    """
    changed, grey = rng.random() < JITTER_RATE, rng.random() < GREY_RATE
    widest = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    brightness, contrast, saturation = rng.uniform(1 - widest, 1 + widest)
    angle = 2 * np.pi * rng.uniform(-jitter.hue, jitter.hue)
    colour = len(planes) == 3
    if not changed and not (grey and colour):
        return planes
    mix, lift = np.eye(len(planes)), 1.0
    to_grey = np.broadcast_to(_maps.LUMA, (3, 3))
    if changed:
        mix, lift = mix * brightness, contrast
        if colour:
            mix = (
                (saturation * np.eye(3) + (1 - saturation) * to_grey)
                @ _maps.hue_rotation(angle)
                * brightness
            )
    if grey and colour:
        mix = to_grey @ mix
    # contrast stretches about the mean grey, and the mean of a mapped picture is its map of the
    # mean
    flat = planes.reshape(len(planes), -1)
    middle = mix @ flat.mean(1)
    if colour:
        middle = to_grey @ middle
    out: np.ndarray = (lift * mix).astype(np.float32) @ flat
    out += ((1 - lift) * middle).astype(np.float32)[:, None]
    return out.reshape(planes.shape)


def solarized(planes: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from the middle of a range on are turned round in it.

    Args:
        planes: (C, H, W) float32.
        low, high: the range; values beyond it count as its ends.
    """
    planes = planes.clip(low, high)
    out: np.ndarray = np.where(planes < (low + high) / 2, planes, low + high - planes)
    return out.astype(np.float32)


def auto_augment(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """See `image_policies.auto_augment`, which is imported when asked for: torchvision is slow."""
    from amodal.modalities.shared.image_policies import auto_augment

    return auto_augment(value, rng)


def print_augment(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """See `sheet_views.sheet_view`, which is imported when asked for: scipy is slow.

    Args:
        value: (C, H, W) uint8, or float32 in any unit.
        rng: the only source of randomness.
    """
    from amodal.modalities.shared.sheet_views import sheet_view

    is_bytes = value.dtype == np.uint8
    low, high = (0.0, 255.0) if is_bytes else (float(value.min()), float(value.max()))
    if low == high:
        return value
    out = sheet_view(value.astype(np.float32), low, high, rng)
    return np.rint(out).astype(np.uint8) if is_bytes else out


WHOLE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    AUTO: auto_augment,
    SHEET: print_augment,
}
"""Views that are no crops."""

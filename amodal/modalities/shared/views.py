"""The names of views."""

from __future__ import annotations

from collections.abc import Collection

from amodal.core import field_of, unknown

VIEWS = ("plain", "weak", "strong", "local")
"""plain: as it is, for evaluation · weak: lightly changed · strong: SimCLR's · local: a small part
(DINO's multi-crop)."""
VARIANTS = {
    "crop": "weak",
    "i_jepa": "weak",
    "half": "weak",
    "alexnet": "weak",
    "simclr": "strong",
    "unblurred": "strong",
    "amdim": "strong",
    "autoaugment": "strong",
    "eda": "strong",
    "rocket": "strong",
    "stopwords": "weak",
    "sheet": "strong",
    "music": "strong",
    "blurred": "strong",
    "solarized": "strong",
    "global": "strong",
    "local_solarized": "local",
    "ibot": "strong",
    "ibot_solarized": "strong",
    "ibot_local": "local",
    "dinov2": "strong",
    "dinov2_solarized": "strong",
    "dinov2_local": "local",
    "dinov3": "strong",
    "dinov3_solarized": "strong",
    "dinov3_local": "local",
    "dinov3_half": "strong",
    "dinov3_half_solarized": "strong",
    "dinov3_quarter": "local",
    "dinov3_gram": "strong",
    "dinov3_gram_solarized": "strong",
    "turned": "plain",
    "season": "strong",
    "season_local": "local",
}
"""Views that only some modalities make -> what the others make of them. crop is MAE's and i_jepa
I-JEPA's; half and simclr are those of SLIP, alexnet is AlexNet's, unblurred is SimCLR's for small
pictures, amdim is AMDIM's; blurred and solarized are the two views of BYOL, which differ for
pictures; global and local_solarized are the large and the small view of LeJEPA; ibot,
ibot_solarized and ibot_local are the two large views and the small one of iBOT, and those of dinov2
and dinov3 the same of DINOv2 and DINOv3; half, quarter and gram of dinov3 are the sizes of a run
with a larger Gram teacher. autoaugment and eda are CleanCLIP's, stopwords and rocket those of texts
in CLIPRocket, sheet and music those of UCASR. turned is Galileo's; season and season_local are of
one date of a raster."""
TOGETHER = frozenset({"turned"})
"""Views of which all fields of a record draw the same, so that what lies on one ground stays so."""
SAME_CROP = {"dinov3_gram": 1, "dinov3_gram_solarized": 2}
"""Views of the crop of another view of the value -> the number of that one, counted from 1."""


def salt_of(view: str, source: str) -> str:
    """What the draws of a view follow from beside the seed of its row.

    Args:
        view: the name.
        source: the field and the number of the view.
    """
    if view in SAME_CROP:
        return f"{field_of(source)}:{SAME_CROP[view]}"
    return view if view in TOGETHER else source


def check_view(view: str, views: Collection[str] = VIEWS) -> None:
    """Check the name of a view.

    Args:
        view: the name.
        views: names that are right.

    Raises:
        AmodalError: an unknown view.
    """
    if view not in views:
        raise unknown("view", view, views)

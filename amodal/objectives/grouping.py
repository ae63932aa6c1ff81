"""Patches grouped by a sentence: the region of an image that a text describes, without boxes.

Zheng et al., DreamLIP, ECCV 2024, arXiv:2403.17007, section 3.3 (subcaption-specific grouping).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def group_patches(
    texts_NKD: Tensor, patches_NLD: Tensor, mask_NL: Tensor, *, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pool the patches of an image by their similarity to each text.

    Similarities are scaled to [0, 1] within an image, those below `threshold` set to 0, and
    normalised to weights. Equal similarities give a plain mean. Images are independent.

    Args:
        texts_NKD: K texts of each of N images; normalised here.
        patches_NLD: patches of the images; normalised here.
        mask_NL: bool, True for patches that exist, at least one an image.
        threshold: on the scaled similarities; 0 stands for 1 / number of patches, the paper's.

    Returns:
        Unit vectors (N, K, D), and the weights (N, K, L), which sum to 1.

    Raises:
        ValueError: the shapes do not fit.
    """
    if texts_NKD.dim() != 3 or patches_NLD.dim() != 3 or mask_NL.shape != patches_NLD.shape[:2]:
        raise ValueError(
            "group_patches needs (N, K, D) texts, (N, L, D) patches and an (N, L) mask, got "
            f"{tuple(texts_NKD.shape)}, "
            f"{tuple(patches_NLD.shape)} and {tuple(mask_NL.shape)}."
        )
    texts, patches = F.normalize(texts_NKD, dim=2), F.normalize(patches_NLD, dim=2)
    cosine, padding = texts @ patches.transpose(1, 2), ~mask_NL[:, None]
    low = cosine.masked_fill(padding, torch.inf).amin(2, keepdim=True)
    span = cosine.masked_fill(padding, -torch.inf).amax(2, keepdim=True) - low
    scaled = torch.where(span > 0, (cosine - low) / span.clamp(min=1e-10), 1.0)
    cutoff = threshold or 1 / mask_NL.sum(1).clamp(min=1)[:, None, None]
    sparse = scaled.masked_fill(padding | (scaled < cutoff), 0)
    weights = sparse / sparse.sum(2, keepdim=True)
    return F.normalize(weights @ patches, dim=2), weights

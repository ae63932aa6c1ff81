"""Patches grouped by a sentence: the part of an image that a text speaks of, without boxes.

Zheng et al., DreamLIP, ECCV 2024, arXiv:2403.17007, section 3.3 (subcaption-specific grouping).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def group_patches(
    texts_NKD: Tensor, patches_NLD: Tensor, there_NL: Tensor, *, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(N, K, D) unit vectors: of each text's own image, the patches that are like it; and (N, K, L)
    the weights, which sum to one.

    texts_NKD:    K texts of each of N images; cosines are taken here.
    patches_NLD:  patches of the images; there_NL (N, L) bool: which of them exist, at least one of
                  each image.
    threshold:    similarities, scaled so that an image's least is 0 and its largest 1, count as 0
                  below it; 0 stands for
                  one over the image's number of patches, as in the paper.

    An image whose patches are all equally similar is averaged. Nothing couples images. Raises
    ValueError for shapes that disagree.
    """
    if texts_NKD.dim() != 3 or patches_NLD.dim() != 3 or there_NL.shape != patches_NLD.shape[:2]:
        raise ValueError(
            f"group_patches needs (N, K, D) texts, (N, L, D) patches and an (N, L) mask, got {tuple(texts_NKD.shape)}, "
            f"{tuple(patches_NLD.shape)} and {tuple(there_NL.shape)}."
        )
    texts, patches = F.normalize(texts_NKD, dim=2), F.normalize(patches_NLD, dim=2)
    similar, away = texts @ patches.transpose(1, 2), ~there_NL[:, None]
    low = similar.masked_fill(away, torch.inf).amin(2, keepdim=True)
    span = similar.masked_fill(away, -torch.inf).amax(2, keepdim=True) - low
    scaled = torch.where(span > 0, (similar - low) / span.clamp(min=1e-10), 1.0)
    least = threshold or 1 / there_NL.sum(1).clamp(min=1)[:, None, None]
    kept = scaled.masked_fill(away | (scaled < least), 0)
    weights = kept / kept.sum(2, keepdim=True)
    return F.normalize(weights @ patches, dim=2), weights

"""What a backdoor does to an encoder: how often its trigger wins, and how far it moves pictures.

Attack success rate as in Bansal et al. 2023 (CleanCLIP), arXiv:2303.03323, section 4; triggers are
in `amodal.curate.poison`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def attack_success(
    triggered_ND: Tensor, classes_KD: Tensor, labels_N: Tensor, target: int
) -> float:
    """Share of the triggered pictures of other classes that are taken for the target.

    triggered_ND: embeddings of pictures with the trigger; classes_KD: embeddings of the class
    names' prompts; labels_N: int64, true classes; the nearest class by cosine is the model's
    answer. NaN where every picture is of the target.
    """
    others = labels_N != target
    return float((nearest_class(triggered_ND, classes_KD)[others] == target).float().mean())


def nearest_class(z_ND: Tensor, classes_KD: Tensor) -> Tensor:
    """(N,) int64: the class whose vector is nearest by cosine."""
    return (normalize(z_ND.float(), dim=1) @ normalize(classes_KD.float(), dim=1).T).argmax(1)


def trigger_shift(plain_ND: Tensor, triggered_ND: Tensor) -> float:
    """How far the trigger moves the same N pictures: mean of 1 - cosine, from 0 (not at all) to 2."""
    return float((1 - cosine_similarity(plain_ND.float(), triggered_ND.float(), dim=1)).mean())

"""Effects of a backdoor on an encoder: how often its trigger wins, how far it moves pictures.

Attack success rate as in Bansal et al. 2023 (CleanCLIP), arXiv:2303.03323, section 4. Triggers are
in `amodal.curate.poison`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def attack_success(
    triggered_ND: Tensor, classes_KD: Tensor, labels_N: Tensor, target: int
) -> float:
    """Attack success rate: the share of triggered pictures of other classes predicted as the
    target.

    Args:
        triggered_ND: Embeddings of pictures with the trigger.
        classes_KD: Embeddings of the class names' prompts. The nearest class by cosine is
            predicted.
        labels_N: int64, true classes.
        target: The class that the attacker wants.

    Returns:
        The rate, NaN where every picture is of the target.
    """
    others = labels_N != target
    return float((nearest_class(triggered_ND, classes_KD)[others] == target).float().mean())


def nearest_class(z_ND: Tensor, classes_KD: Tensor) -> Tensor:
    """(N,) int64: the class whose vector is nearest by cosine."""
    return (normalize(z_ND.float(), dim=1) @ normalize(classes_KD.float(), dim=1).T).argmax(1)


def trigger_shift(plain_ND: Tensor, triggered_ND: Tensor) -> float:
    """How far the trigger moves the same N pictures.

    Returns:
        The mean of 1 - cosine, from 0 (not at all) to 2.
    """
    return float((1 - cosine_similarity(plain_ND.float(), triggered_ND.float(), dim=1)).mean())

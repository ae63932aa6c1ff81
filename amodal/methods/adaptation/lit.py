"""LiT: one tower is locked as it was trained before, and the others learn to speak its language.
Zhai et al., CVPR 2022, arXiv:2111.07991, section 3. The loss is CLIP's (see `clip`); a linear map
leads from the locked tower into the common space, as in their appendix on heads. The tower that is
locked comes from a run (`--init-from`) or is a pretrained backbone."""

from amodal.core import AmodalError, unknown
from amodal.methods.contrastive.clip import clip
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder


def lit(
    encoder: Encoder,
    *,
    lock: str = "",
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """Build LiT.

    Args:
        encoder: Some of its towers are pretrained.
        lock: The fields that are frozen, with commas between (by default those with a pretrained
            backbone, or the first field).
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    for field in to_lock(encoder, lock):
        encoder.lock(field)
    return clip(encoder, width=width, temperature=temperature, max_scale=max_scale)


def to_lock(encoder: Encoder, lock: str) -> list[str]:
    """The fields to freeze.

    Args:
        encoder: Of the fields.
        lock: Their names, with commas between; "" for those with a pretrained backbone, or the
            first field.

    Raises:
        AmodalError: For a name that is no field, and if nothing would learn.
    """
    pretrained = [f for f in encoder.fields if encoder.pretrained(f)]
    default = pretrained or [next(iter(encoder.fields))]
    locked = [f.strip() for f in lock.split(",")] if lock else default
    for field in locked:
        if field not in encoder.fields:
            raise unknown("field to lock", field, encoder.fields)
    if len(locked) == len(encoder.fields) and not any(map(encoder.pretrained, locked)):
        raise AmodalError(
            "all fields are locked, so that nothing would learn but their maps into one space; "
            "leave one out of lock"
        )
    return locked

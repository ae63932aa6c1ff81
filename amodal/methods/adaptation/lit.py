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
    """lock: the fields that stay as they are, with commas between (unless given, those with a
    pretrained backbone, or the first field); width: of the common space; temperature: where the
    learned softmax temperature starts; max_scale: bound of its inverse."""
    for field in to_lock(encoder, lock):
        encoder.lock(field)
    return clip(encoder, width=width, temperature=temperature, max_scale=max_scale)


def to_lock(encoder: Encoder, lock: str) -> list[str]:
    """The fields that `lock` names, with commas between; unless it names any, those with a
    pretrained backbone, or the first. Raises AmodalError for a name that is none, and where nothing
    else would learn."""
    given = [f for f in encoder.fields if encoder.contextual(f)] or [next(iter(encoder.fields))]
    locked = [f.strip() for f in lock.split(",")] if lock else given
    for field in locked:
        if field not in encoder.fields:
            raise unknown("field to lock", field, encoder.fields)
    if len(locked) == len(encoder.fields) and not any(map(encoder.contextual, locked)):
        raise AmodalError(
            "all fields are locked, so that nothing would learn but their maps into one space; leave one out of lock"
        )
    return locked

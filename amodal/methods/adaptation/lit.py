"""LiT: one tower is locked as it was trained before, and the others learn to speak its language.
Zhai et al., CVPR 2022, arXiv:2111.07991, section 3. The loss is CLIP's (see `clip`); a linear map
leads from the locked tower into the common space, as in their appendix on heads. The tower that is
locked comes from a run (`--init-from`) or is a pretrained backbone.

Differs:

- heads: the authors' first choice has none on the locked tower: texts are mapped into the space of
  its features. Theirs with a map on both sides is ours.
- encoder: of the text, a transformer from scratch ("Lu"), or a pretrained one that learns on
  ("LU", by `--train-backbones`, which leaves what `lock` names as it is). Theirs are ViT and BERT.
- temperature: .07, CLIP's; theirs begins at .1. The bound of its inverse is CLIP's too.
- what is locked is chosen by option or default; a tower that nothing has trained is locked as
  well, if it is the first.
- views: `weak` ones also of the locked field. Theirs are flips and random colours (RandAugment) of
  pictures of 224 pixels, and texts of 16 subwords; features of a locked tower may be kept
  (`cache_features`) where views are `plain`.
- optimizer: AdamW, as in the authors' configuration with a BERT; Adafactor for other texts can be
  had by `optimizer`."""

from amodal.core import AmodalError, Recipe, unknown
from amodal.methods.contrastive.clip import clip
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder

# of the authors' configuration for the captions of COCO
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup=0.03,
    clip=1.0,
    batch_size=4096,
    steps=5000,
)


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

"""APE: two encoders that were trained apart stay frozen, and a small head leads from the space of
the one into that of the other.

Rosenfeld, Nakkiran, Pouransari, Tuzel and Faghri, 2022, arXiv:2210.03927, section 2. The loss is
CLIP's (see `clip`). As nothing below the head learns, features can be computed once: `amodal
align`. For any fields: each but the anchor gets blocks of a transformer over its tokens, which of a
value that is kept as one vector are a perceptron with a residual, then a linear map; the anchor a
linear map alone.

Differs:

- encoder: runs of this library and backbones (`--backbone image=timm:…`, `text=transformers:…`);
  the paper has large vision transformers and language models.
- heads: the paper's are perceptrons of four to six layers; here a block of a transformer has one of
  two, and reads tokens before the mean is taken.
- the pairs: their second lever, captions that resemble the task, is a matter of which records are
  trained on.
- recipe: that of the library; the authors published no code.
- zero-shot classes by an ensemble of prompts: `amodal predict RUN --classes … --templates …`, and
  `zero_shot` of `amodal evaluate`. The sets of templates that ship are few and short; files of
  others, such as CLIP's 80, are taken.
"""

from amodal.core import AmodalError, unknown
from amodal.methods.contrastive.clip import clip
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.nn.encoder import Encoder


def ape(
    encoder: Encoder,
    *,
    anchor: str = "",
    blocks: int = 1,
    width: int = 256,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """Build APE.

    Args:
        encoder: Frozen but for its new heads.
        anchor: The field whose space the others are led into (by default the first that is no
            text).
        blocks: Of the head of each other field, 0 for a linear map.
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    if blocks < 0:
        raise AmodalError(f"a head has 0 blocks or more, not {blocks}")
    if anchor and anchor not in encoder.fields:
        raise unknown("field to be the anchor", anchor, encoder.fields)
    fields = two_fields(encoder).fields
    others = [f for f, m in fields.items() if not m.takes_prompts] or list(fields)
    for field in encoder.fields:
        encoder.lock(field)
        if blocks and field != (anchor or others[0]):
            encoder.extend(field, blocks)
    return clip(encoder, width=width, temperature=temperature, max_scale=max_scale)

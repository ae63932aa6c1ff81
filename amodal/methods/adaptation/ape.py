"""APE: two encoders that were trained apart stay frozen, and a small head leads from the space of
the one into that of the other.

Rosenfeld, Nakkiran, Pouransari, Tuzel and Faghri, 2022, arXiv:2210.03927, section 2. The loss is
CLIP's (see `clip`). As nothing below the head learns, features can be computed once: `amodal
align`. For any fields: each but the anchor gets blocks of a transformer over its tokens, which of a
value that is kept as one vector are a perceptron with a residual, then a linear map; or, as in the
paper, a perceptron of `layers` layers over its vector. The anchor gets a linear map alone.

Differs:

- encoder: runs of this library and backbones (`--backbone image=timm:…`, `text=transformers:…`);
  the paper has large vision transformers and language models.
- heads: the paper's are perceptrons of four to six layers (`--method.layers 4`); by default here a
  block of a transformer has one of two, and reads tokens before the mean is taken. What a layer
  consists of was not read: here it is a linear map as wide as the encoder, and ReLU.
- the pairs: their second lever, captions that resemble the task, is a matter of which records are
  trained on.
- recipe: that of the library; the authors published no code, and their rates and batches are not
  known here.
- zero-shot classes by an ensemble of prompts: `amodal predict RUN --classes … --templates …`, and
  `zero_shot` of `amodal evaluate`. The sets of templates that ship are few and short; files of
  others, such as CLIP's 80, are taken.
"""

from typing import cast

from amodal.core import AmodalError, unknown
from amodal.core.part import Part
from amodal.methods.contrastive.clip import clip
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.methods.shared.typed_parts import aligned_heads
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import LinearHead, ReluHead


def ape(
    encoder: Encoder,
    *,
    anchor: str = "",
    blocks: int = 1,
    layers: int = 0,
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
        layers: Of a perceptron in place of blocks, 0 for blocks.
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    for name, value in (("blocks", blocks), ("layers", layers)):
        if value < 0:
            raise AmodalError(f"a head has 0 {name} or more, not {value}")
    if anchor and anchor not in encoder.fields:
        raise unknown("field to be the anchor", anchor, encoder.fields)
    fields = two_fields(encoder).fields
    others = [f for f, m in fields.items() if not m.takes_prompts] or list(fields)
    for field in encoder.fields:
        encoder.lock(field)
        if blocks and not layers and field != (anchor or others[0]):
            encoder.extend(field, blocks)
    method = clip(encoder, width=width, temperature=temperature, max_scale=max_scale)
    if layers:
        first = anchor or others[0]
        heads = {f: _perceptron(encoder.width, width, layers) for f in encoder.fields if f != first}
        encoder.set_heads(heads | {first: cast(Part, aligned_heads(encoder)[first])}, width)
    return method


def _perceptron(width_in: int, width: int, layers: int) -> Part:
    if layers == 1:
        return LinearHead(width_in, width)
    return ReluHead(width_in, width, hidden=width_in, layers=layers - 1)

"""A dual encoder that goes on learning, without labels, from montages of what its own prompts found
and sentences of the reports. Van Uden, Bluethgen, Attias, Polacin, Guo, Simha, Raj and Langlotz,
2023, arXiv:2306.01111. Row 55 of the catalogue.

The whole way: `amodal.curate.montage` scores patches of a scan by prompts and puts the best into
one picture; `amodal.curate.report_sections` takes sentences from reports; this page continues
CLIP's contrast on both (`pretrain(..., init_from=RUN)`, with a small learning rate);
`amodal.evaluate.protocols.zero_shot` decides, with several wordings of each class. Reconstructed
from the paper's description, which has no public code: prompts, patch size, number of patches and
temperature are the user's. No early stopping: the steps are the budget."""

from amodal.core import unknown
from amodal.methods.contrastive.clip import clip
from amodal.methods.shared.regions import texts_and_others
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder

SIDES = ("both", "seen", "text")


def clip_ild(
    encoder: Encoder,
    *,
    learn: str = "both",
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """Build CLIP-ILD.

    Args:
        encoder: Trained beforehand.
        learn: The side of the encoder that goes on learning: "both", "seen" (all that is not text)
            or "text". Of the other side only the map into the common space learns.
        width: Of that space, as in the run to go on from.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    if learn not in SIDES:
        raise unknown("side to learn", learn, SIDES)
    texts, others = texts_and_others(encoder)
    for field in dict(zip(SIDES, ([], texts, others)))[learn]:
        encoder.lock(field)
    return clip(encoder, width=width, temperature=temperature, max_scale=max_scale)

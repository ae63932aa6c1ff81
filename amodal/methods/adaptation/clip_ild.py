"""CLIP-ILD: a dual encoder goes on learning, without labels, from montages of the patches that its
own prompts found and sentences of the reports.

Van Uden, Bluethgen, Attias, Polacin, Guo, Simha, Raj and Langlotz, 2023, arXiv:2306.01111. Loss:
CLIP's, between every two fields (Radford et al. 2021, figure 3), of which one side may rest. Row 55
of the catalogue. Written from the paper's description; its code is not public.

The whole way: `amodal.curate.montage` scores patches of a scan by prompts and puts the best into
one picture; `amodal.curate.report_sections` takes sentences from reports; this page continues
the contrast on both (`amodal pretrain clip_ild --init-from RUN`); `zero_shot` of `amodal evaluate`
decides, with several wordings of each class.

Differs:

- encoder: that of RUN, which any dual method has trained here. The paper goes on from CLIP's
  published weights. `--backbone` takes pretrained bodies of pictures and of texts, but the maps
  into CLIP's common space do not come with them, so there is nothing to choose patches with before
  a first run with pairs.
- temperature: it begins anew at .07, or as told; the paper goes on from CLIP's, which is .01
  (`--method.temperature 0.01`).
- heads: both maps into the common space learn, also that of a side that rests.
- more than two fields: the mean over pairs.
- data: there is no kind for volumes; a scan is a list of slices to `PatchSelector`. Lungs are not
  segmented: patches are cut from whole slices, within a window of intensities. Size and number of
  patches, prompts and headings of reports are the user's.
- recipe: none of the paper's; rate, batch and number of steps are the library's. There is no early
  stopping: the steps are the budget.
- views: `weak`, so montages are cropped and reports lose words at their ends (`--views all=plain`
  for neither).
- product: classes with wordings of each are `amodal predict RUN --classes FILE --templates …`, and
  AUROC with intervals is `zero_shot` of `amodal evaluate`. Montages and sentences are made in
  Python, by no command.
"""

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

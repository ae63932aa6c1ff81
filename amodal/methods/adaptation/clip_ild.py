"""CLIP-ILD: a dual encoder goes on learning, without labels, from montages of the patches that its
own prompts found and sentences of the reports.

Van Uden, Bluethgen, Attias, Polacin, Guo, Simha, Raj and Langlotz, 2023, arXiv:2306.01111. Loss:
CLIP's, between every two fields (Radford et al. 2021, figure 3), of which one side may rest. Row 55
of the catalogue. Written from the paper's description; its code is not public.

The whole way, from CLIP's weights in DIR, which are made a run by a rate of 0:

    amodal pretrain clip --data PAIRS --size base --method.width 512 --steps 1 --lr 0 --out CLIP
        --backbone image=transformers:DIR@projected text=transformers:DIR@projected
    amodal montage CLIP --data SCANS --scans COLUMN --findings FILE --level -600 --width 1500
        --report COLUMN --sections Lungs,Findings --about "fibrosis,opacity" --out MONTAGES
    amodal pretrain clip_ild --init-from CLIP --data MONTAGES --size base --method.width 512
        --backbone image=transformers:DIR@projected text=transformers:DIR@projected
        --train-backbones --method.temperature 0.01 --views all=plain --out RUN
    amodal evaluate RUN --data MONTAGES --only zero_shot

`montage` scores patches of the slices of each volume by prompts, puts the best into one picture,
and takes sentences from reports; this page goes on with the contrast on both; `zero_shot` decides,
with several wordings of each class, and has AUROC with intervals. In Python they are
`amodal.selection.montages` and `amodal.curate.montage`.

Differs:

- temperature: it begins anew at .07, or as told; the paper goes on from CLIP's, which is .01.
- heads: behind each of CLIP's projections is one more linear map, which begins as the identity and
  learns, also that of a side that rests.
- more than two fields: the mean over pairs.
- data: volumes are stacks of slices (.npy, TIFF, folders of pictures), not DICOM. Lungs are not
  segmented: patches are cut from whole slices, within a window of intensities. Size and number of
  patches, prompts and headings of reports are the user's.
- recipe: none of the paper's; rate, batch and number of steps are the library's. There is no early
  stopping: the steps are the budget.
- views: `weak` unless said otherwise, so montages are cropped and reports lose words at their ends.
- open: lungs as masks, DICOM, and the recipe. Waits for work, and the configuration.
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

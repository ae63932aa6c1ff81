"""Balanced CLIP: similarities are scaled to uniform marginals for k steps, of which CLIP takes one.
Liu, Mehta, Pal & Harchaoui, NeurIPS 2024, arXiv:2408.15065, section 4. Every two fields of a
record; what balancing does to the variance of an estimate is measured by `amodal.diagnose.balance`.
Row 42 of the catalogue.

Differs:

- encoder: any, trained whole, with linear heads. The paper trains perceptrons of two hidden layers
  of 256 with ReLU on frozen features of CLIP, BERT and GPT-2 (128 outputs, as here):
  `--backbone image=timm:NAME@pretrained text=transformers:DIR --method.hidden 256`, here behind a
  linear map to the encoder's width, which learns.
- temperature: learned from .07; .01 and fixed in the paper (`temperature=0.01` begins there).
- steps: any number of them; the paper trains with 0, 1 and 2.
- with n fields, the mean over pairs of fields.
- metadata balancing, the paper's second application, is not here.
- product: the estimate, its variance and their prediction are called from Python, by no command.
- recipe: the library's. The authors' repository has the models that they trained, and not the
  program that trained them."""

from functools import partial

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import ReluHead
from amodal.nn.scale import Scale
from amodal.objectives.balance import balanced_info_nce


def balance(
    encoder: Encoder,
    *,
    steps: int = 2,
    width: int = 128,
    hidden: int = 0,
    layers: int = 2,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """Build balanced CLIP.

    Args:
        encoder: Of at least two fields.
        steps: Of balancing; 0 is jointly centred, 1 is CLIP, 2 doubly centred.
        width: Of the common space.
        hidden: Width of the hidden layers of the heads; 0 for linear ones.
        layers: Hidden layers of the heads, with ReLU.
        temperature: Where the learned softmax temperature starts (fixed at .01 in the paper, whose
            features are pretrained).
        max_scale: Bound of its inverse.
    """
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"balanced/{a}~{b}": balanced_info_nce(
                    *z.pair(a, b), temperature=1 / scale(), steps=steps
                )
                for a, b in field_pairs(z)
            }
        )

    head = partial(ReluHead, hidden=hidden, layers=layers) if hidden else None
    return Towers(two_fields(encoder).align(width, head=head), objective, learned=scale)

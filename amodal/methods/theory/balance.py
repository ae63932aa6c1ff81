"""Balanced CLIP: similarities are scaled to uniform marginals for k steps, of which CLIP takes one.
Liu, Mehta, Pal & Harchaoui, NeurIPS 2024, arXiv:2408.15065, section 4. Every two fields of a
record. Row 42 of the catalogue.

Product: an estimate of a mean over a population of which two labels are known, with its predicted
error and the dependence that decides how much balancing gains (eq. 3-6, theorem 1): `amodal
estimate DATA --value V --by A,B`, `amodal.diagnose.estimate`. Metadata balancing, the second
application, is `amodal curate DATA --by balance --words FILE`.

Differs:

- encoder: any, trained whole, with linear heads. The authors train perceptrons of two hidden layers
  of 256 with ReLU on frozen features of CLIP (ViT-B/32), BERT and GPT-2 (128 outputs, as here):
  `--backbone image=open_clip:ViT-B-32@FILE text=transformers:DIR --method.hidden 256`, here behind
  a linear map to the encoder's width, which learns; theirs bring features to length one instead.
- temperature: learned from .07. Theirs is .01 and fixed: `--method.temperature 0.01
  --method.learn_temperature False`.
- steps: any number of them; the paper trains with 0, 1 and 2.
- with n fields, the mean over pairs of fields.
- estimates: a value that varies inside a cell of the two labels adds its variance, which no step
  removes; the paper's is a function of the cell.
- recipe: the library's. The authors' repository has the models that they trained, with figures
  after each 500 of 5,000 steps, some in batches of 128, and not the program that trained them: its
  optimizer, rate and batch are not known.
"""

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
    learn_temperature: bool = True,
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
        learn_temperature: Whether it learns.
    """
    scale = Scale(1 / temperature, most=max_scale).requires_grad_(learn_temperature)

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
